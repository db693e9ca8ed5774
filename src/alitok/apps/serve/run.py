"""`alitok serve`: a saved model to a service, as one process or as replicas."""

from __future__ import annotations

import importlib
from typing import Any

from alitok.apps.serve.options import ServeOptions
from alitok.core.errors import AlitokError


def run_serve(model: str, options: ServeOptions) -> int:
    """Serve until asked to stop.

    Args:
        model: a directory with a saved model, or `owner/name` on the hub.

    Returns:
        The exit status: 0 after SIGTERM, 130 after Ctrl-C.

    Raises:
        AlitokError: a library is missing, the port is taken, or the model, the key file or the run cannot be used.
    """
    serve_here = _import("alitok.apps.serve.server", "The service", "serve").serve_here
    if options.replicas is None:
        if options.gpus_per_replica is not None or options.cluster is not None:
            raise AlitokError("--gpus-per-replica and --cluster require --replicas.")
        return serve_here(model, options)
    return _import("alitok.apps.serve.replicas", "Replicas", "serve,ray").serve_replicas(model, options)


def _import(module: str, what: str, extras: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise AlitokError(f"{what} requires {error.name}: pip install 'alitok[{extras}]'.") from None
