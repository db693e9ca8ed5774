"""Cells of the ablation in worker processes, several at a time.

A worker ends when its parent does, however that ended, so that two processes never work on one cell.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

import torch
from rich.console import Console

from alitok.apps.ablate.cell import SPLIT_SEED, Cell, Shared, read_finished, run_cell
from alitok.core.device import DeviceName
from alitok.core.distributed import World, join
from alitok.core.errors import AlitokError
from alitok.data.sources.opening import open_splits

_GRACE_SECONDS = 60  # for a worker to save its state
_SPAWN = multiprocessing.get_context("spawn")
Job = tuple[Cell, ...]  # cells that run one after the other in one process, named after the first


def run_jobs(
    jobs: Iterable[Job],
    shared: Shared,
    data: str,
    world: World,
    *,
    parallel: int,
    on_end: Callable[[Job], None],
) -> dict[str, str]:
    """Run jobs in order, `parallel` at a time, even after one failed; returns the error messages by the job's name.

    KeyboardInterrupt where asked to stop; all workers have saved their state then.
    """
    waiting, failures = list(jobs), {}
    running: dict[int, tuple[Job, SpawnProcess, Connection]] = {}
    try:
        while waiting or running:
            for slot in range(parallel):
                if waiting and slot not in running:
                    running[slot] = _start(waiting.pop(0), shared, data, world, slot, parallel)
            ended = wait([process.sentinel for _, process, _ in running.values()])
            for slot, (job, process, answer) in list(running.items()):
                if process.sentinel in ended:
                    process.join()
                    del running[slot]
                    failure = _failure(process, answer)
                    if failure is not None:
                        failures[job[0].name] = failure
                    on_end(job)
    finally:
        for _, process, _ in running.values():
            process.terminate()
        for _, process, _ in running.values():
            process.join(_GRACE_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
    return failures


def _start(
    job: Job, shared: Shared, data: str, world: World, slot: int, parallel: int
) -> tuple[Job, SpawnProcess, Connection]:
    device: DeviceName = world.device.type  # type: ignore[assignment]  # one of the names
    gpu = slot % torch.cuda.device_count() if device == "cuda" else None
    threads = max(1, torch.get_num_threads() // parallel)
    ours, theirs = _SPAWN.Pipe(duplex=False)
    process = _SPAWN.Process(target=_work, args=(job, shared, data, device, gpu, threads, theirs))
    process.start()
    theirs.close()
    return job, process, ours


def _failure(process: SpawnProcess, answer: Connection) -> str | None:
    """The error message of a worker that has ended; None after success."""
    with answer:
        try:
            message = answer.recv() if answer.poll() else None
        except EOFError:
            message = None
    if message is not None or process.exitcode == 0:
        return message
    status = process.exitcode or 0
    ending = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    return f"its process {ending}, maybe for lack of memory; choose a smaller --parallel."


def _work(
    job: Job, shared: Shared, data: str, device: DeviceName, gpu: int | None, threads: int, answer: Connection
) -> None:
    """Output goes to a log, an error message also to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent stops the others
    signal.signal(signal.SIGTERM, _exit)  # except in a training, which saves its state first
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    else:
        torch.set_num_threads(threads)
    log = shared.root / f"{job[0].name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            splits = open_splits(data, shared.image_size, SPLIT_SEED)
            with join(device) as world:
                for cell in job:
                    if read_finished(shared.directory(cell)) is None:
                        run_cell(cell, shared, splits, world, Console(file=file, width=120))
        except KeyboardInterrupt:  # the state is saved
            raise SystemExit(1) from None
        except AlitokError as error:
            answer.send(str(error))
        except Exception as error:  # reported by the parent; the other workers go on
            traceback.print_exc()
            answer.send(f"unexpected {type(error).__name__}: {error}; see {log}.")


def _exit(number: int, frame: object) -> None:
    raise SystemExit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
