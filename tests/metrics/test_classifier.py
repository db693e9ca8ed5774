import sys

import numpy as np
import pytest
from PIL import Image

import alitok.metrics.classifier as module
from alitok.core.errors import AlitokError
from alitok.metrics.classifier import ImageClassifier


def digits(side):
    from sklearn.datasets import load_digits

    data = load_digits()
    pages = (data.images / 16 * 255).round().astype(np.uint8)
    large = [np.asarray(Image.fromarray(page).resize((side, side), Image.Resampling.BICUBIC)) for page in pages]
    order = np.random.default_rng(0).permutation(len(large))
    return np.repeat(np.stack(large)[order, None], 3, axis=1), data.target[order]


@pytest.mark.parametrize("side", [16, 32])
def test_it_classifies_validation_digits(side):
    images, labels = digits(side)
    classifier = ImageClassifier.fit(images[:1437], labels[:1437])
    predicted = classifier.predict(images[1437:])
    assert predicted.shape == (360,)
    accuracy = np.mean(predicted == labels[1437:])
    assert accuracy >= 0.97
    assert classifier.accuracy(images[1437:], labels[1437:]) == accuracy
    assert classifier.accuracy(255 - images[1437:], labels[1437:]) < 0.5  # a negative is not a digit it knows


def test_a_classifier_of_grayscale_images_ignores_tint():
    images, labels = digits(16)
    classifier = ImageClassifier.fit(images[:500], labels[:500])
    tinted = images[500:800].astype(np.int64)
    tinted[:, 0] += 9
    tinted[:, 2] -= 9
    inside = ((tinted >= 0) & (tinted <= 255)).all(axis=1, keepdims=True)
    tinted = np.where(inside, tinted, images[500:800]).astype(np.uint8)
    assert (tinted != images[500:800]).any()
    assert np.array_equal(classifier.predict(tinted), classifier.predict(images[500:800]))


def colored(count, side, seed):
    """Noise of the same brightness, reddish (class 3) or bluish (class 7)."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([3, 7], count)
    noise = rng.integers(60, 190, (count, 1, side, side)).repeat(3, axis=1)
    shift = np.where(labels[:, None] == 3, [[40, 0, -40]], [[-40, 0, 40]])
    return (noise + shift[:, :, None, None]).astype(np.uint8), labels


@pytest.mark.parametrize("side", [20, 64])
def test_color_is_used_at_any_size(side):
    images, labels = colored(80, side, 0)
    unseen, expected = colored(40, side, 1)
    classifier = ImageClassifier.fit(images, labels)
    assert classifier.accuracy(unseen, expected) == 1
    gray = unseen.mean(axis=1, keepdims=True).repeat(3, axis=1).astype(np.uint8)
    assert classifier.accuracy(gray, expected) < 0.9


def test_images_are_averaged_down_to_16_px_for_any_block_size(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 64, 32), dtype=np.uint8)
    expected = images.reshape(5, 3, 16, 4, 16, 2).mean(axis=(3, 5)).reshape(5, -1) / 255
    assert np.allclose(module._features(images, color=True), expected, atol=1e-6)
    monkeypatch.setattr(module, "_BLOCK", 2)
    assert np.allclose(module._features(images, color=True), expected, atol=1e-6)


def test_large_sets_are_subsampled_deterministically(monkeypatch):
    images, labels = digits(16)
    monkeypatch.setattr(module, "_MAX_IMAGES", 400)
    first, second = (ImageClassifier.fit(images, labels) for _ in range(2))
    assert first._pipeline[-1].shape_fit_[0] == 400
    assert np.array_equal(first.predict(images), second.predict(images))
    assert first.accuracy(images, labels) > 0.9


def test_two_images_are_enough():
    images = np.stack([np.zeros((3, 8, 8), np.uint8), np.full((3, 8, 8), 255, np.uint8)])
    assert ImageClassifier.fit(images, np.array([1, 0])).predict(images).tolist() == [1, 0]


def test_a_single_class_is_rejected():
    with pytest.raises(AlitokError, match="two classes"):
        ImageClassifier.fit(np.zeros((4, 3, 8, 8), np.uint8), np.zeros(4, np.int64))


def test_missing_scikit_learn_is_reported(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(AlitokError, match=r"pip install 'alitok\[demo\]'"):
        ImageClassifier.fit(np.zeros((2, 3, 8, 8), np.uint8), np.arange(2))
