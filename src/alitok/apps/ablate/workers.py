"""Cells of the ablation in processes of their own, several at a time.

Enters: jobs, each of cells that need one another. Leaves: their directories, and a sentence for each job that failed.
A process ends when the one that started it does, however that ended, so that no two ever work on one cell.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

import torch
from rich.console import Console

from alitok.apps.ablate.cell import SPLIT_SEED, Cell, Shared, do_cell, finished
from alitok.core.device import DeviceName
from alitok.core.distributed import World, join
from alitok.core.errors import AlitokError
from alitok.data.sources.opening import open_splits

_PATIENCE = 60  # seconds for a process to save its state when asked to stop


@dataclass(frozen=True)
class Job:
    """Cells that are done one after the other."""

    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """The first cell's."""
        return self.cells[0].name


@dataclass(frozen=True)
class _Orders:
    """What a process is told.

    Attributes:
        job: its cells.
        shared: as for all.
        data: which images.
        device: where to compute.
        gpu: the only one that it sees; None where there is no choice.
        threads: of its arithmetic on a CPU.
    """

    job: Job
    shared: Shared
    data: str
    device: DeviceName
    gpu: int | None
    threads: int


def work_off(
    jobs: Iterable[Job],
    shared: Shared,
    data: str,
    world: World,
    *,
    parallel: int,
    on_end: Callable[[Job], None],
) -> dict[str, str]:
    """Do all jobs; one that fails does not stop the others.

    Args:
        jobs: in the order that they are begun in.
        shared: as for all cells.
        data: which images.
        world: of this process.
        parallel: jobs at a time.
        on_end: called with each job that has ended.

    Returns:
        For each job that failed, its name and a sentence.

    Raises:
        KeyboardInterrupt: asked to stop; all processes have saved their state.
    """
    waiting, failures = list(jobs), {}
    slots: dict[int, tuple[Job, SpawnProcess, Connection]] = {}
    try:
        while waiting or slots:
            for slot in range(parallel):
                if waiting and slot not in slots:
                    slots[slot] = _start(waiting.pop(0), shared, data, world, slot, parallel)
            ended = wait([process.sentinel for _, process, _ in slots.values()])
            for slot, (job, process, said) in list(slots.items()):
                if process.sentinel in ended:
                    process.join()
                    del slots[slot]
                    sentence = _failure(process, said)
                    if sentence is not None:
                        failures[job.name] = sentence
                    on_end(job)
    finally:
        _stop([process for _, process, _ in slots.values()])
    return failures


def _start(
    job: Job, shared: Shared, data: str, world: World, slot: int, parallel: int
) -> tuple[Job, SpawnProcess, Connection]:
    cuda = world.device.type == "cuda"
    orders = _Orders(
        job,
        shared,
        data,
        world.device.type,  # type: ignore[arg-type]  # one of the names
        slot % torch.cuda.device_count() if cuda else None,
        max(1, torch.get_num_threads() // parallel),
    )
    ours, theirs = multiprocessing.get_context("spawn").Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(orders, theirs))
    process.start()
    theirs.close()
    return job, process, ours


def _failure(process: SpawnProcess, said: Connection) -> str | None:
    """The sentence of a process that has ended; None where all went well."""
    try:
        told = said.recv() if said.poll() else None
    except EOFError:
        told = None
    finally:
        said.close()
    if told is not None or process.exitcode == 0:
        return told
    status = process.exitcode or 0
    killed = f"was killed by signal {-status}" if status < 0 else "ended without a word"
    return f"its process {killed}; is there memory enough for so many at a time? Choose a smaller --parallel."


def _stop(processes: list[SpawnProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()


def _work(orders: _Orders, answer: Connection) -> None:
    """Do a job; what it tells goes to a file beside the cell's directory, and a failure also to whoever waits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the first one asks the others
    signal.signal(signal.SIGTERM, _leave)  # outside of the trainings, which save their state first
    threading.Thread(target=_follow, daemon=True).start()
    if orders.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(orders.gpu)
    else:
        torch.set_num_threads(orders.threads)
    log = orders.shared.root / f"{orders.job.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            _do(orders, Console(file=file, width=120))
        except KeyboardInterrupt:  # the state is saved
            raise SystemExit(1) from None
        except AlitokError as error:
            answer.send(str(error))
        except Exception as error:  # told by whoever waits; the others go on
            traceback.print_exc()
            answer.send(f"unexpected {type(error).__name__}: {error}; {log} has more.")


def _do(orders: _Orders, console: Console) -> None:
    shared = orders.shared
    splits = open_splits(orders.data, shared.image_size, SPLIT_SEED)
    with join(orders.device) as world:
        for cell in orders.job.cells:
            if finished(shared.place(cell)) is None:
                do_cell(cell, shared, splits, world, console)


def _leave(number: int, frame: object) -> None:
    raise SystemExit(1)


def _follow() -> None:
    """Wait for the process that started this one, and end with it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
