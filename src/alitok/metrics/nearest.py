"""Distance of images to the nearest image of a set: a sample much nearer than real unseen images is a copy."""

from __future__ import annotations

import numpy as np

from alitok.core.errors import AlitokError

_MAX_VALUES = 2**24  # pixel values of one block in float64: 128 MB


def nearest_distance(queries: np.ndarray, references: np.ndarray, block: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """RMS pixel differences (N,) in [0, 1] to the nearest of M >= 1 references, and its index (N,), the first if equal.

    |q - r|^2 = |q|^2 + |r|^2 - 2 q.r on uint8 pixel values in float64, where every term is an integer below 2^53:
    nothing is rounded, an exact copy has distance 0, and neither `block` nor summation order changes the result.

    Raises:
        AlitokError: no references, or references of another size.
    """
    assert queries.dtype == references.dtype == np.uint8, (queries.dtype, references.dtype)
    if len(references) == 0:
        raise AlitokError("No reference images to search; pass at least one.")
    if queries.shape[1:] != references.shape[1:]:
        raise AlitokError(
            f"Images of shape {queries.shape[1:]} cannot be compared with references of shape "
            f"{references.shape[1:]}; bring both to one size."
        )
    values = int(np.prod(queries.shape[1:]))
    block = max(1, min(block, _MAX_VALUES // values))
    squares = np.full(len(queries), np.inf)
    indices = np.zeros(len(queries), np.int64)
    for first in range(0, len(references), block):
        others, other_norms = _flat(references[first : first + block])
        for start in range(0, len(queries), block):
            some, norms = _flat(queries[start : start + block])
            table = norms[:, None] + other_norms - 2 * (some @ others.T)
            nearest = table.argmin(1)
            found = table[np.arange(len(some)), nearest]
            rows = np.arange(start, start + len(some))
            better = found < squares[rows]
            squares[rows[better]] = found[better]
            indices[rows[better]] = first + nearest[better]
    return np.sqrt(squares / values) / 255, indices


def _flat(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixel values (n, 3 h w) and their squared norms (n,), both float64."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    return flat, np.einsum("ij,ij->i", flat, flat)
