"""A small classifier for small images and few classes: do generated images look like their class?

Its accuracy is reported beside that on real images, and is not comparable to Inception-based metrics.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from alitok.core.errors import AlitokError
from alitok.core.images import to_float

_SIDE = 16  # px that images are averaged down to
_COMPONENTS = 64
_MAX_IMAGES = 10_000  # fitted on; the time of an SVM grows with their square
_BLOCK = 1024  # images downscaled at a time; bounds the memory
_SEED = 0


class ImageClassifier:
    """An SVM with Gaussian kernel on the principal components of downscaled pixels; deterministic, made by `fit`."""

    def __init__(self, pipeline: Any, color: bool) -> None:
        self._pipeline, self._color = pipeline, color

    @classmethod
    def fit(cls, images: np.ndarray, labels: np.ndarray) -> ImageClassifier:
        """Fit on real images (N, 3, h, w) uint8 with labels (N,); if all are gray, later images are read as gray too.

        Raises:
            AlitokError: scikit-learn is not installed, or all labels are the same.
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
        if len(images) > _MAX_IMAGES:
            rows = np.sort(np.random.default_rng(_SEED).permutation(len(images))[:_MAX_IMAGES])
            images, labels = images[rows], labels[rows]
        if len(np.unique(labels)) < 2:
            raise AlitokError("A classifier needs images of at least two classes; all labels are the same.")
        color = bool((images != images[:, :1]).any())
        features = _features(images, color)
        pca = PCA(min(_COMPONENTS, *features.shape), svd_solver="covariance_eigh")
        pipeline = make_pipeline(pca, SVC(C=10.0, kernel="rbf", gamma="scale"))
        return cls(pipeline.fit(features, labels), color)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Labels (N,) of images (N, 3, h, w) uint8, of any size that fits the fitted one."""
        return self._pipeline.predict(_features(images, self._color))

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Fraction of images (N, 3, h, w) uint8 classified as their label, in [0, 1]."""
        return float((self.predict(images) == np.asarray(labels)).mean())


def _features(images: np.ndarray, color: bool) -> np.ndarray:
    """(N, 3, h, w) uint8 -> (N, D) float32 in [0, 1]: pixels averaged down to at most 16 x 16."""
    side = min(images.shape[2], _SIDE), min(images.shape[3], _SIDE)
    parts = []
    for start in range(0, len(images), _BLOCK):
        pixels = to_float(torch.from_numpy(np.ascontiguousarray(images[start : start + _BLOCK])))
        if not color:
            pixels = pixels.mean(1, keepdim=True)
        parts.append(F.adaptive_avg_pool2d(pixels, side).flatten(1).numpy())
    return np.concatenate(parts)
