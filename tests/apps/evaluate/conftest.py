"""Shared by the tests of the evaluations: a small tokenizer, real images, and a network in place of Inception."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from alitok.apps.evaluate import generation, generation_report, reconstruction, reference, report
from alitok.metrics.features import Features
from alitok.metrics.moments import Moments
from alitok.metrics.reference import Provenance, save_statistics
from alitok.tokenizer import DecoderConfig, EncoderConfig, Tokenizer, TokenizerConfig

SMALL = {"width": 16, "layers": 1, "heads": 2}


class Projections:
    """Some sums of pixels; counts the images it was shown."""

    name, weights, distance = "projections", "abc", "distance of sums"

    def __init__(self):
        random = torch.Generator().manual_seed(0)
        self.pool = torch.randn(3 * 8 * 8, 6, generator=random)
        self.shown = 0

    def to(self, device):
        return self

    def __call__(self, images):
        self.shown += len(images)
        pool = (F.adaptive_avg_pool2d(images.float() / 255, 8).flatten(1) @ self.pool).square() / 10
        return Features(pool, pool[:, :2] ** 0.5, pool[:, :3].softmax(1))


@pytest.fixture(scope="session")
def projections():
    return Projections


@pytest.fixture(scope="session")
def features():
    """Features (N, D) float64 of images (N, 3, h, h) uint8."""

    def of(images, layer="pool"):
        return getattr(Projections()(torch.from_numpy(images)), layer).double().numpy()

    return of


@pytest.fixture(scope="session")
def frechet():
    """The squared Frechet distance of two sets of features, by the formula."""

    def between(a, b):
        mean = a.mean(0) - b.mean(0)
        one, two = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
        return mean @ mean + np.trace(one + two) - 2 * np.sqrt(np.linalg.eigvals(one @ two).real.clip(0)).sum()

    return between


@pytest.fixture(scope="session")
def tokenizer():
    """Makes a tokenizer with random weights."""

    def make(stage2=True, size=16):
        torch.manual_seed(0)
        config = TokenizerConfig(
            image_size=size,
            patch_size=size // 4,
            codebook_size=40,
            code_width=4,
            encoder=EncoderConfig(**SMALL),
            stage1=DecoderConfig(**SMALL, causal=True, extra_tokens=1, prefix_head=True),
            stage2=DecoderConfig(**SMALL, extra_tokens=3) if stage2 else None,
        )
        found = Tokenizer(config).eval()
        for parameter in found.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        return found

    return make


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """60 real images of 16 x 20 pixels, in two of a model's three classes and one that it does not know."""
    root, random = tmp_path_factory.mktemp("real") / "images", np.random.default_rng(0)
    for number in range(60):
        path = root / ("ant", "cow", "dog")[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 16, 3), dtype=np.uint8)).save(path)
    return root


@pytest.fixture(scope="session")
def cropped():
    """The images below a folder, (N, 3, 16, 16) uint8, in the order of their paths."""

    def read(root):
        paths = sorted(root.rglob("*.png"))
        return np.stack([np.asarray(Image.open(path))[2:18].transpose(2, 0, 1) for path in paths])

    return read


@pytest.fixture
def use(monkeypatch):
    """Puts a feature network in place of Inception in all evaluations, and returns it."""

    def put(extractor):
        for module in (generation, reconstruction, reference):
            monkeypatch.setattr(module, "open_extractor", lambda *words: extractor)
        return extractor

    return put


@pytest.fixture
def extractor(use):
    return use(Projections())


@pytest.fixture
def use_classifier(use, monkeypatch):
    """Puts a classifier of some classes in place of Inception."""

    def put(*names):
        class Classifier(Projections):
            classes, val_accuracy = names, 0.75

        for module in (generation, generation_report, reconstruction, report):
            monkeypatch.setattr(module, "ClassifierFeatures", Classifier)
        use(Classifier())

    return put


@pytest.fixture
def statistics(tmp_path):
    """Saves statistics of features (N, 6), and the features too if wanted; returns the file's name."""

    def save(pool, with_features=False, **changes):
        about = {"kind": "generation", "network": "projections", "resolution": 16, **changes}
        path = tmp_path / f"{'-'.join(map(str, about.values()))}-{len(pool)}.npz"
        pool, moments = torch.from_numpy(pool), Moments(6)
        moments.update(pool.float())
        save_statistics(path, {"pool": moments}, Provenance(**about), pool if with_features else None)
        return str(path)

    return save
