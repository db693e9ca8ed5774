"""Inception Score: the mean over splits of exp(mean KL(p || mean p)), in [1, C], for class probabilities p (B, C).

Sources: Salimans et al. 2016; splits of 5000 samples in order as in ADM's evaluator (Dhariwal and Nichol 2021), whose
last split may be shorter and counts like the others.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from alitok.core.distributed import World
from alitok.core.errors import AlitokError


class Score(NamedTuple):
    """Inception Score: mean, in [1, C], and std over the splits; the std is not the uncertainty of the mean."""

    mean: float
    std: float  # 0 for one split
    splits: int


class InceptionScore:
    """The count, the sum of p, and the sum of p log p of each split, on any number of processes.

    mean KL(p || q) = mean(sum p log p) - sum q log q with q the mean of p, so no probabilities are stored.
    """

    def __init__(self, classes: int, split: int = 5000) -> None:
        assert split >= 1, split
        self.split, self._next = split, 0
        self._counts = torch.zeros(0, dtype=torch.int64)
        self._negentropy = torch.zeros(0, dtype=torch.float64)
        self._sums = torch.zeros(0, classes, dtype=torch.float64)

    def update(self, probabilities: torch.Tensor, numbers: torch.Tensor | None = None) -> None:
        """Add probabilities (B, C), rows of sum 1; `numbers` (B,) of the samples decide the splits, None continues.

        Raises:
            AlitokError: a probability is NaN or infinite; nothing is added.
        """
        found = probabilities.detach().to("cpu").to(torch.float64)
        assert found.ndim == 2, found.shape
        assert found.shape[1] == self._sums.shape[1], (found.shape, self._sums.shape)
        if len(found) == 0:
            return
        broken = int((~found.isfinite().all(1)).sum())
        if broken:
            raise AlitokError(
                f"The class probabilities of {broken} of {len(found)} samples are not finite; check these "
                "samples and at the network's weights."
            )
        if numbers is None:
            numbers = torch.arange(self._next, self._next + len(found))
        numbers = numbers.to("cpu", torch.int64)
        self._next = int(numbers.max()) + 1
        self._grow(int(numbers.max()) // self.split + 1)
        places = numbers // self.split
        self._counts.index_add_(0, places, torch.ones_like(places))
        self._negentropy.index_add_(0, places, -torch.special.entr(found).sum(1))
        self._sums.index_add_(0, places, found)

    def score(self) -> Score:
        """The score of all samples so far; an error without any."""
        seen = self._counts > 0
        if not seen.any():
            raise AlitokError("The Inception Score needs at least one sample.")
        counts, sums = self._counts[seen].double(), self._sums[seen]
        mean_negentropy = self._negentropy[seen] / counts
        entropy_of_mean = torch.special.entr(sums / counts[:, None]).sum(1)
        scores = (mean_negentropy + entropy_of_mean).exp()
        return Score(float(scores.mean()), float(scores.std(correction=0)), len(scores))

    def all_reduced(self, world: World) -> InceptionScore:
        """Of the samples of all processes; every process calls it and gets the same."""
        whole = InceptionScore(self._sums.shape[1], self.split)
        self._grow(int(world.maximum(torch.tensor(len(self._counts)))))
        whole._next = int(world.maximum(torch.tensor(self._next)))
        whole._counts = world.sum(self._counts.clone())
        whole._negentropy = world.sum(self._negentropy.clone())
        whole._sums = world.sum(self._sums.clone())
        return whole

    def _grow(self, splits: int) -> None:
        missing = splits - len(self._counts)
        if missing > 0:
            self._counts = torch.cat([self._counts, self._counts.new_zeros(missing)])
            self._negentropy = torch.cat([self._negentropy, self._negentropy.new_zeros(missing)])
            self._sums = torch.cat([self._sums, self._sums.new_zeros(missing, self._sums.shape[1])])
