"""The processes of one run: which one this is, and the few things that all of them do together.

Enters: the environment that `torchrun` sets, and the user's wish for a device. Leaves: a `World`, handed to whatever
must agree over processes. One process needs no launcher, and every operation is then the identity.
"""

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
_PATIENCE = timedelta(hours=6)  # of those that wait for what one process does alone, such as drawing samples

# What Gloo says, whose errors have no type of their own, when the other side is gone.
_LOST = "Connection closed by peer", "Connection reset by peer", "Timed out waiting", "Broken pipe"


@dataclass(frozen=True)
class World:
    """This process among those of the run.

    Attributes:
        device: where this process computes.
        rank: its number, the first being 0.
        size: how many there are.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes the files and speaks to the user."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Add up a tensor over all processes, in place; returns it."""
        return self._reduce(tensor, dist.ReduceOp.SUM)

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """Average a float tensor over all processes, in place; returns it."""
        return self.sum(tensor).div_(self.size) if self.size > 1 else tensor

    def minimum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The smallest of each element over all processes, in place; returns it."""
        return self._reduce(tensor, dist.ReduceOp.MIN)

    def maximum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The largest of each element over all processes, in place; returns it."""
        return self._reduce(tensor, dist.ReduceOp.MAX)

    def _reduce(self, tensor: torch.Tensor, operation: dist.ReduceOp.RedOpType) -> torch.Tensor:
        if self.size > 1:
            dist.all_reduce(tensor, operation)
        return tensor

    def gather(self, value: T) -> list[T]:
        """Small Python values of all processes, in the order of their ranks, on every process."""
        values: list[Any] = [value]
        if self.size > 1:
            values = [None] * self.size
            dist.all_gather_object(values, value)
        return values

    def on_rank0(self, work: Callable[[], T]) -> T:
        """Do `work` on the first process; every process gets its result, or ends with it.

        Raises:
            OtherRankError: on the other processes, when `work` failed on the first, where its own error goes on.
        """
        if self.size == 1:
            return work()
        result, error = None, None
        if self.main:
            try:
                result = work()
            except BaseException as failure:
                error = failure
        told: list[Any] = [(error is None, result if error is None else None)]
        dist.broadcast_object_list(told, src=0)
        if error is not None:
            raise error
        worked, result = told[0]
        if not worked:
            raise OtherRankError("The first process of the run failed.")
        return result

    def same(self, tensors: list[torch.Tensor]) -> bool:
        """Whether every process holds the same bits."""
        digests = torch.stack([_digest(tensor) for tensor in tensors]) if tensors else torch.zeros(1)
        digests = digests.to(torch.int64)
        return torch.equal(self.minimum(digests.clone()), self.maximum(digests.clone()))

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            self.gather(None)  # through the host, so that no device waits


def _digest(tensor: torch.Tensor) -> torch.Tensor:
    """A number that tells two tensors apart unless by chance; computed where the tensor is."""
    words = tensor.detach().contiguous().flatten().view(torch.uint8).to(torch.int64)
    places = torch.arange(1, len(words) + 1, device=words.device)
    return (words * (places * 2654435761 % 2147483647)).sum()  # wraps around, the same everywhere


def launched() -> bool:
    """Whether a launcher such as `torchrun` started several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def join(device: DeviceName = "auto") -> Iterator[World]:
    """The world of this process while the context lasts.

    Raises:
        AlitokError: the device asked for is not there, cannot be shared, or there are too few of them; or, while the
            context lasts, another process is gone.
    """
    chosen = choose_device(device)
    if not launched():
        yield World(chosen)
        return
    if chosen.type == "cuda":
        number = int(os.environ.get("LOCAL_RANK", "0"))
        if number >= torch.cuda.device_count():
            raise AlitokError(
                f"Process {number} of this machine has no GPU of its own, there are {torch.cuda.device_count()}; "
                "start torchrun with --nproc-per-node not above that."
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
            # A thread of Gloo may still hold the tensors of the last message; letting go of them while Python ends
            # aborts the process. A barrier has none, and comes when the message before it is gone.
            dist.barrier()
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        raise AlitokError(
            f"Process {dist.get_rank()} lost another process of this run: it was killed, or says why it ended. Start "
            "the same command again; it goes on from what is finished."
        ) from error
    finally:
        dist.destroy_process_group()


def _is_lost(error: BaseException | None) -> bool:
    """Whether this, or what caused it, is what a backend says when the other side is gone."""
    while error is not None:
        if isinstance(error, dist.DistError) or any(sign in str(error) for sign in _LOST):
            return True
        error = error.__cause__ or error.__context__
    return False
