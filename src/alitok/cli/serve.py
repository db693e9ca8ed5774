"""`alitok serve`: a saved model as a service with a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def serve(
    model: str,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    run: Path | None = None,
    key_file: Path | None = None,
    allow_host: Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)] = None,
    batch_size: int | None = None,
    most_images: int = 64,
    most_waiting: int = 256,
    deadline_seconds: float = 120.0,
    stop_seconds: float = 60.0,
    precision: Literal["fp32", "bf16", "int8"] = "fp32",
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto",
    replicas: int | None = None,
    gpus_per_replica: float | None = None,
    cluster: str | None = None,
) -> None:
    """Serve a model: images by HTTP, row by row if wanted, and a page to draw with.

    Requests of different classes, settings and seeds share batches, and an image never depends on who else asks.
    SIGTERM and Ctrl-C let running work finish; a second Ctrl-C ends at once. Give a key before you let others reach it.

    Args:
        model: a directory with a saved pair, or `owner/name` on the hub.
        host: the address to listen at; 127.0.0.1 is reached from this machine alone, 0.0.0.0 from everywhere.
        port: likewise; 0 takes a free one, which is told.
        run: the directory of a run whose curves and images the page shows.
        key_file: a file with one line, the key that clients must give.
        allow_host: further names by which the service may be called, such as that of a proxy before it. On 127.0.0.1 it
            answers to its own names and these alone; at other addresses to any name unless some are given.
        batch_size: images drawn at a time; unless given 64 on a GPU and 32 elsewhere, or what fits into memory.
        most_images: that one request may ask for.
        most_waiting: images of all requests that may wait, at least those of one; more are refused meanwhile.
        deadline_seconds: in which an answer must be ready.
        stop_seconds: that running work gets to finish.
        precision: of the generator: bf16 and int8 (on a CPU) are faster and not exact.
        device: where to draw.
        replicas: so many processes with a model each, on several GPUs or machines, by Ray; needs the extra `ray`.
        gpus_per_replica: a share of one if several replicas fit on it; unless given 1, or 0 where there are none.
        cluster: the address of a Ray cluster that replicas are spread over, or `auto` for that of this machine; unless
            given, they are on this machine alone. All machines must find the model under the same name.
    """
    from alitok.apps.serve.limits import ServiceLimits
    from alitok.apps.serve.run import ServeOptions, run_serve
    from alitok.core.errors import AlitokError

    try:
        limits = ServiceLimits(
            most_images=most_images,
            most_waiting=most_waiting,
            most_uploads=min(ServiceLimits.most_uploads, most_waiting),
            deadline_seconds=deadline_seconds,
            stop_seconds=stop_seconds,
        )
    except AlitokError as error:  # configs leave the full stop to whoever tells it
        raise AlitokError(f"{error}.") from None
    status = run_serve(
        ServeOptions(
            model=model,
            host=host,
            port=port,
            run=run,
            key_file=key_file,
            allow_hosts=tuple(allow_host or ()),
            batch_size=batch_size,
            precision=precision,
            device=device,
            limits=limits,
            replicas=replicas,
            gpus_per_replica=gpus_per_replica,
            cluster=cluster,
        )
    )
    raise SystemExit(status)
