"""How sure the Frechet distance of images from what was made of each of them is: of reconstructions, not of samples.

Enter: moments of the two sets, in the same random blocks of images. Leave: the distance, its interval and its bias.
Shapes: D features, K blocks.

Images and their reconstructions are not two independent sets: what chance put into the images is in both and mostly
cancels, so perfect reconstructions of however few images are at distance 0. Here resamples and halves are drawn of
both sets at once; `alitok.metrics.frechet` takes the reference as exact, and would call that distance far too large.
"""

from __future__ import annotations

from collections.abc import Sequence

from alitok.core.errors import AlitokError
from alitok.metrics.frechet import Interval, bootstrap, extrapolated, frechet_distance
from alitok.metrics.moments import BlockMoments, Moments, merged

_Pair = tuple[Moments, Moments]


def paired_bias(made: BlockMoments, originals: BlockMoments) -> float:
    """How much larger the distance of these images is expected to be than that of endlessly many.

    It is about c / N for N images, so that of half of them is larger by about c / N than that of all.

    Args:
        made: K blocks, of which every other one makes a half.
        originals: the images, in the same blocks.

    Returns:
        The expected bias, in the units of `frechet_distance`; below zero only by chance, where it is near zero.

    Raises:
        AlitokError: the dimensions differ, a number is NaN or infinite, or a half holds fewer than two images.
    """
    pairs = _pairs(made, originals)
    halves = [pairs[first::2] for first in (0, 1)]
    counts = [sum(original.count for _, original in half) for half in halves]
    if min(counts) < 2:
        raise AlitokError("The bias needs at least two images in each half of the blocks; give more images.")
    return extrapolated([_distance(half) for half in halves], _distance(pairs), counts)


def paired_interval(
    made: BlockMoments, originals: BlockMoments, *, resamples: int = 25, level: float = 0.95, seed: int = 0
) -> Interval:
    """The distance with a bootstrap interval over blocks of images; only the spread of the resamples is used.

    Args:
        made: K blocks of at least two images; the deviation itself is known to about 1 / sqrt(2 K).
        originals: the images, in the same blocks.
        resamples: how many; each takes a distance of both sets anew, about 8 s for 2048 features on a CPU core.
        level: share of such intervals that hold the number they estimate, in (0, 1).
        seed: of the draws.

    Raises:
        AlitokError: the dimensions differ, a number is NaN or infinite, or blocks hold fewer than two images.
    """
    pairs = [pair for pair in _pairs(made, originals) if pair[1].count]
    if len(pairs) < 2 or min(original.count for _, original in pairs) < 2:
        raise AlitokError("An interval needs at least two images in each block; give more images or fewer blocks.")
    return bootstrap(
        _distance(pairs),
        len(pairs),
        lambda times: _distance(pairs, times),
        resamples=resamples,
        level=level,
        seed=seed,
    )


def _pairs(made: BlockMoments, originals: BlockMoments) -> list[_Pair]:
    pairs = list(zip(made.blocks, originals.blocks, strict=True))
    assert all(one.count == other.count for one, other in pairs), "blocks of different images"
    return pairs


def _distance(pairs: Sequence[_Pair], times: Sequence[int] | None = None) -> float:
    """Of all images of some blocks, where each counts so many times, or once."""
    made, originals = (merged(blocks, times).gaussian() for blocks in zip(*pairs, strict=True))
    return frechet_distance(originals, made)
