"""Which pictures of a data set are held out: (N,) labels enter, an (N,) mask leaves."""

from __future__ import annotations

import numpy as np


def heldout_mask(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Draw about `share` of each class, at least one picture and never a whole class of two or more.

    Args:
        labels: (N,) integers; the draw of a class depends on its label and its number of pictures alone.
        share: between 0 and 1.
        seed: of the draw.

    Returns:
        (N,) booleans, true where a picture is held out.
    """
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(max(1, round(share * len(rows))), max(1, len(rows) - 1))
        rng = np.random.default_rng([seed % 2**64, int(label)])
        mask[rng.choice(rows, count, replace=False)] = True
    return mask
