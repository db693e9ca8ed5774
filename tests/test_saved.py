"""Models saved by version 0.1.0, before its packages were renamed, load and generate the same images."""

from pathlib import Path

import numpy as np

from alitok.sampling.pipeline import Pipeline

SAVED = Path(__file__).with_name("saved")


def test_a_model_saved_before_the_renaming_generates_the_same_images():
    images = Pipeline.from_pretrained(SAVED / "model", device="cpu")([0, 1, 2, 3], seed=5)
    assert np.array_equal(np.stack([np.asarray(image) for image in images]), np.load(SAVED / "expected.npz")["images"])
