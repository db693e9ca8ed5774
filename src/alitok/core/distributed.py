"""The processes of one run, as `torchrun` starts them, and their collective operations; identities for one process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from alitok.core.device import DeviceName, choose_device
from alitok.core.errors import AlitokError, OtherRankError

T = TypeVar("T")
_PATIENCE = timedelta(hours=6)  # while one process works alone, such as on samples

# Messages of Gloo, whose errors have no type of their own, when a peer is gone.
_LOST = "Connection closed by peer", "Connection reset by peer", "Timed out waiting", "Broken pipe"


@dataclass(frozen=True)
class World:
    """This process among those of the run."""

    device: torch.device  # where this process computes
    rank: int = 0  # of `size` processes
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all processes, in place; returns it."""
        return self._reduce(tensor, dist.ReduceOp.SUM)

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """Average a float tensor over all processes, in place; returns it."""
        return self.sum(tensor).div_(self.size) if self.size > 1 else tensor

    def minimum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Elementwise minimum over all processes, in place; returns it."""
        return self._reduce(tensor, dist.ReduceOp.MIN)

    def maximum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Elementwise maximum over all processes, in place; returns it."""
        return self._reduce(tensor, dist.ReduceOp.MAX)

    def _reduce(self, tensor: torch.Tensor, operation: dist.ReduceOp.RedOpType) -> torch.Tensor:
        if self.size > 1:
            dist.all_reduce(tensor, operation)
        return tensor

    def gather(self, value: T) -> list[T]:
        """Small Python values of all processes, in rank order, on every process."""
        values: list[Any] = [value]
        if self.size > 1:
            values = [None] * self.size
            dist.all_gather_object(values, value)
        return values

    def on_rank0(self, work: Callable[[], T]) -> T:
        """Do `work` on rank 0; every process gets its result, or OtherRankError where rank 0 raises an error itself."""
        if self.size == 1:
            return work()
        result, error = None, None
        if self.main:
            try:
                result = work()
            except BaseException as failure:
                error = failure
        outcome: list[Any] = [(error is None, result if error is None else None)]
        dist.broadcast_object_list(outcome, src=0)
        if error is not None:
            raise error
        worked, result = outcome[0]
        if not worked:
            raise OtherRankError("Rank 0 failed.")
        return result

    def same(self, tensors: list[torch.Tensor]) -> bool:
        """Whether every process has the same bits."""
        digests = torch.stack([_digest(tensor) for tensor in tensors]) if tensors else torch.zeros(1, dtype=torch.int64)
        return torch.equal(self.minimum(digests.clone()), self.maximum(digests.clone()))

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            self.gather(None)  # through the host, so that no device waits


def _digest(tensor: torch.Tensor) -> torch.Tensor:
    """A hash of a tensor, computed on its device."""
    words = tensor.detach().contiguous().flatten().view(torch.uint8).to(torch.int64)
    places = torch.arange(1, len(words) + 1, device=words.device)
    return (words * (places * 2654435761 % 2147483647)).sum()  # wraps around, the same everywhere


def launched() -> bool:
    """Whether a launcher such as `torchrun` started several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def join(device: DeviceName = "auto") -> Iterator[World]:
    """The world of this process, within the context.

    Raises:
        AlitokError: the device is unavailable or cannot be shared, there are too few, or another process was lost.
    """
    chosen = choose_device(device)
    if not launched():
        yield World(chosen)
        return
    if chosen.type == "cuda":
        number = int(os.environ.get("LOCAL_RANK", "0"))
        if number >= torch.cuda.device_count():
            raise AlitokError(
                f"Process {number} of this machine has no GPU of its own: there are {torch.cuda.device_count()}. "
                "Start torchrun with at most as many in --nproc-per-node."
            )
        chosen = torch.device("cuda", number)
        torch.cuda.set_device(chosen)
    elif chosen.type != "cpu":
        raise AlitokError(f"Several processes cannot share device {chosen.type}; choose --device cpu or one process.")
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield World(chosen, dist.get_rank(), dist.get_world_size())
        if chosen.type == "cpu":
            # A thread of Gloo may still hold the tensors of the last message; releasing them while Python exits aborts
            # the process. A barrier has none, and completes after the message before it is released.
            dist.barrier()
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        raise AlitokError(
            f"Process {dist.get_rank()} lost another process of this run: it was killed, or reports why it ended. "
            "Progress saved; rerun the same command to resume."
        ) from error
    finally:
        dist.destroy_process_group()


def _is_lost(error: BaseException | None) -> bool:
    """Whether this error, or a cause of it, is that of a lost peer."""
    while error is not None:
        if isinstance(error, dist.DistError) or any(sign in str(error) for sign in _LOST):
            return True
        error = error.__cause__ or error.__context__
    return False
