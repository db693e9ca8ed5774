"""`alitok serve`: a saved model as an HTTP service with a page."""

from __future__ import annotations

from alitok.apps.serve.options import ServeOptions

_DEFAULTS = ServeOptions()


def serve(model: str, /, options: ServeOptions = _DEFAULTS) -> None:
    """Serve a model over HTTP, with a page to generate images in the browser.

    Requests with different classes, settings and seeds share batches, and no image depends on other requests. SIGTERM
    and Ctrl-C let running work finish; a second Ctrl-C ends the process at once. Set a key before others can reach it.

    Args:
        model: a directory with a saved model, or `owner/name` on the hub.
    """
    from alitok.apps.serve.run import run_serve

    raise SystemExit(run_serve(model, options))
