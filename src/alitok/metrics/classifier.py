"""A small classifier that reads images as a person without training would check them: is this a 3?

Enter: images (N, 3, h, w) uint8 and labels (N,). Leave: predicted labels (N,) and the share that is right.
It is a judge for small images and few classes. Its accuracy is always given under its own name, beside its accuracy
on held-out real images; it is no Inception network and what it says is no FID.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from alitok.core.errors import AlitokError
from alitok.core.images import to_float

_SIDE = 16  # images are averaged down to at most this many pixels a side
_COMPONENTS = 64
_MOST = 10_000  # images fitted on; the time of a kernel machine grows with their square
_BLOCK = 1024  # images shrunk at a time; bounds the memory
_SEED = 0


class ImageClassifier:
    """A support vector machine with Gaussian kernel on the main components of the shrunken pixels.

    The same images always give the same classifier. Made by `fit`.
    """

    def __init__(self, pipeline: Any, colour: bool) -> None:
        self._pipeline, self._colour = pipeline, colour

    @classmethod
    def fit(cls, images: np.ndarray, labels: np.ndarray) -> ImageClassifier:
        """Fit on real images.

        Args:
            images: (N, 3, h, w) uint8. When all are grey, so are later ones to this classifier.
            labels: (N,), of at least two classes.

        Raises:
            AlitokError: scikit-learn is missing, or all labels are the same.
        """
        try:
            from sklearn.decomposition import PCA
            from sklearn.pipeline import make_pipeline
            from sklearn.svm import SVC
        except ImportError:
            raise AlitokError(
                "Classifying images needs scikit-learn; install it with pip install 'alitok[demo]'."
            ) from None
        labels = np.asarray(labels)
        assert len(images) == len(labels), (len(images), len(labels))
        if len(images) > _MOST:
            rows = np.sort(np.random.default_rng(_SEED).permutation(len(images))[:_MOST])
            images, labels = images[rows], labels[rows]
        if len(np.unique(labels)) < 2:
            raise AlitokError("A classifier needs images of at least two classes; all labels are the same.")
        colour = bool((images != images[:, :1]).any())
        features = _features(images, colour)
        pca = PCA(min(_COMPONENTS, *features.shape), svd_solver="covariance_eigh")
        pipeline = make_pipeline(pca, SVC(C=10.0, kernel="rbf", gamma="scale"))
        return cls(pipeline.fit(features, labels), colour)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The labels (N,) that the images (N, 3, h, w) uint8 are read as; any size that was fitted on."""
        return self._pipeline.predict(_features(images, self._colour))

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Share of images (N, 3, h, w) uint8 read as their label, in [0, 1]."""
        return float((self.predict(images) == np.asarray(labels)).mean())


def _features(images: np.ndarray, colour: bool) -> np.ndarray:
    """(N, 3, h, w) uint8 -> (N, D) float32 in [0, 1]: pixels averaged down to at most 16 a side."""
    side = min(images.shape[2], _SIDE), min(images.shape[3], _SIDE)
    parts = []
    for start in range(0, len(images), _BLOCK):
        pixels = to_float(torch.from_numpy(np.ascontiguousarray(images[start : start + _BLOCK])))
        if not colour:
            pixels = pixels.mean(1, keepdim=True)
        parts.append(F.adaptive_avg_pool2d(pixels, side).flatten(1).numpy())
    return np.concatenate(parts)
