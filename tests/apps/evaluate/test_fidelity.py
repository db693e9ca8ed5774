"""Reconstructions measured block by block, against formulas on all images at once."""

import math

import numpy as np
import pytest
import torch

from alitok.apps.evaluate.fidelity import Instruments, code_usage, fidelity_of, measure, rebuild
from alitok.core.blocks import Blocks
from alitok.core.errors import AlitokError
from alitok.losses.perceptual import LpipsVgg
from alitok.metrics.feature_files import FeatureFiles
from alitok.metrics.reconstruction import ssim

COUNT = 21


@pytest.fixture
def tools(tokenizer, projections):
    """Makes the networks of an evaluation, by default of the small tokenizer."""

    def make(model=None, **changes):
        words = {"tokenizer": model or tokenizer(), "extractor": projections(), "lpips": None, "ssim": True}
        return Instruments(**{**words, "batch_size": 3, **changes}, device=torch.device("cpu"))

    return make


def some_images(count=COUNT, size=16):
    return np.random.default_rng(0).integers(0, 256, (count, 3, size, size), dtype=np.uint8)


def written(root, found, images, size=8, wanted=None):
    files = FeatureFiles(root, Blocks(len(images), size))
    for number in wanted or range(len(files.blocks)):
        rows = files.blocks[number]
        files.write(number, measure(found, images[rows.start : rows.stop]))
    return files


def directly(model, images, stage):
    with torch.no_grad():
        rebuilt = model.reconstruct(torch.from_numpy(images).float() / 255, stage)
    return np.rint(rebuilt.numpy() * 255).astype(np.uint8)


def test_reconstructions_are_those_of_both_decoders_rounded(tokenizer, tools):
    model, images = tokenizer(), some_images()
    codes, rebuilt = rebuild(tools(model), images)
    with torch.no_grad():
        assert np.array_equal(codes, model.encode(torch.from_numpy(images).float() / 255).numpy())
    assert list(rebuilt) == ["stage1", "stage2"]
    for stage, made in rebuilt.items():
        wanted = directly(model, images, stage)
        assert made.dtype == np.uint8
        assert np.abs(made.astype(int) - wanted).max() <= 1
        assert (made != wanted).mean() < 0.01, "a pixel may be rounded the other way in another batch"
    assert (rebuilt["stage1"] != rebuilt["stage2"]).mean() > 0.5


def test_the_numbers_are_those_of_the_rounded_images(tmp_path, tokenizer, tools, features):
    model, images = tokenizer(), some_images()
    files = written(tmp_path, tools(model), images)
    codes, made = rebuild(tools(model), images)
    for stage, rebuilt in made.items():
        found = fidelity_of(files, stage)
        error = ((rebuilt.astype(np.float64) - images) / 255) ** 2
        wanted = -10 * np.log10(error.reshape(COUNT, -1).mean(1))
        assert found["psnr"] == pytest.approx(wanted, rel=1e-5)
        assert list(found) == ["psnr", "ssim"]
        both = (torch.from_numpy(each).float() / 255 for each in (images, rebuilt))
        assert found["ssim"] == pytest.approx(ssim(*both).numpy(), rel=1e-5)
        np.testing.assert_allclose(files.column(f"{stage}/pool"), features(rebuilt), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(files.column("original/pool"), features(images), rtol=1e-5, atol=1e-6)
    usage = code_usage(files, 40)
    counts = np.bincount(codes.ravel(), minlength=40)
    assert np.array_equal(usage.counts, counts)
    shares = counts[counts > 0] / counts.sum()
    assert usage.perplexity == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))
    assert 0 < usage.use <= 1


def test_lpips_is_taken_of_each_image(tmp_path, tokenizer, tools):
    pytest.importorskip("torchvision")
    lpips, model, images = LpipsVgg(), tokenizer(), some_images(5)
    files = written(tmp_path, tools(model, lpips=lpips, ssim=False), images, size=4)
    found = fidelity_of(files, "stage2")
    assert list(found) == ["psnr", "lpips"]
    made = rebuild(tools(model), images)[1]["stage2"]
    a, b = (torch.from_numpy(each).float() / 255 for each in (images, made))
    with torch.no_grad():
        alone = [lpips.distance(lpips(a[row, None]), lpips(b[row, None])).item() for row in range(5)]
    assert found["lpips"] == pytest.approx(alone, rel=1e-4)
    assert len(set(alone)) == 5


def test_a_block_does_not_depend_on_the_process(tmp_path, tools):
    images = some_images()
    one = written(tmp_path / "one", tools(), images)
    two = written(tmp_path / "two", tools(), images, wanted=[2])
    assert two.missing() == [0, 1]
    written(tmp_path / "two", tools(), images, wanted=[1, 0])
    for number in range(3):
        first, second = (dict(np.load(files.root / f"block-{number:05d}.npz")) for files in (one, two))
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_tokenizer_of_one_decoder_has_one_column(tmp_path, tokenizer, tools):
    model = tokenizer(stage2=False)
    assert model.stages == ("stage1",)
    files = written(tmp_path, tools(model), some_images())
    assert not [name for name in np.load(files.root / "block-00000.npz").files if name.startswith("stage2")]
    model.stage1 = None
    with pytest.raises(AlitokError, match="has no decoder"):
        _ = model.stages


def test_an_error_of_nothing_is_infinite_and_pixels_that_are_not_finite_are_reported(tmp_path, tokenizer, tools):
    class Copies(torch.nn.Module):
        """Returns its last images."""

        def __init__(self, value):
            super().__init__()
            self.config, self.stages, self.value = tokenizer().config, ("stage1",), value

        def encode(self, images):
            self.images = images
            return torch.zeros(len(images), 20, dtype=torch.int64)

        def decode(self, codes, stage):
            return self.images * self.value

    files = written(tmp_path, tools(Copies(1.0)), some_images())
    assert np.isinf(fidelity_of(files, "stage1")["psnr"]).all()
    assert fidelity_of(files, "stage1")["ssim"] == pytest.approx(1)
    with pytest.raises(AlitokError, match="Pixels of the stage1 decoder are not finite"):
        rebuild(tools(Copies(float("nan"))), some_images())
