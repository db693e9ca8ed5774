"""Which images of a data set are held out: (N,) labels enter, an (N,) mask leaves."""

from __future__ import annotations

import numpy as np


def val_mask(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Draw about `share` of each class, at least one image and never a whole class.

    Args:
        labels: (N,) integers; the draw of a class depends on its label and its number of images alone.
        share: between 0 and 1.
        seed: of the draw.

    Returns:
        (N,) booleans, true where an image is held out; of a class of one image none is.
    """
    mask = np.zeros(len(labels), bool)
    by_class = np.argsort(labels, kind="stable")  # one sort: a comparison per class is dear with thousands of classes
    values, starts = np.unique(labels[by_class], return_index=True)
    for label, rows in zip(values, np.split(by_class, starts[1:]), strict=True):
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        rng = np.random.default_rng([seed % 2**64, int(label)])
        mask[rng.choice(rows, count, replace=False)] = True
    return mask
