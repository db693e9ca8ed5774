"""`alitok serve`: a saved model to a service, as one process or as replicas."""

from __future__ import annotations

from alitok.apps.serve.options import ServeOptions
from alitok.core.errors import AlitokError


def run_serve(model: str, options: ServeOptions) -> int:
    """Serve a model, a directory or `owner/name` on the hub; exit status 0 after SIGTERM, 130 after Ctrl-C.

    Raises:
        AlitokError: a library is missing, the port is taken, or the model, the key file or the run cannot be used.
    """
    if options.replicas is None and (options.gpus_per_replica is not None or options.cluster is not None):
        raise AlitokError("--gpus-per-replica and --cluster require --replicas.")
    try:
        if options.replicas is None:
            from alitok.apps.serve.server import serve_here as serve
        else:
            from alitok.apps.serve.replicas import serve_replicas as serve
    except ImportError as error:
        extras = "serve" if options.replicas is None else "serve,ray"
        raise AlitokError(f"The service requires {error.name}: pip install 'alitok[{extras}]'.") from None
    return serve(model, options)
