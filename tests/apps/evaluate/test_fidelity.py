"""Reconstructions measured block by block; `test_reconstruction.py` compares all numbers with formulas."""

import numpy as np
import pytest
import torch

from alitok.apps.evaluate.fidelity import Instruments, fidelity_of, measure, rebuild
from alitok.core.blocks import Blocks
from alitok.core.errors import AlitokError
from alitok.losses.perceptual import LpipsVgg
from alitok.metrics.feature_files import FeatureFiles

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 16, 16), dtype=np.uint8)


@pytest.fixture
def tools(projections):
    """Makes the networks of an evaluation of a tokenizer."""

    def make(model, lpips=None, ssim=True):
        return Instruments(model, projections(), lpips, ssim, batch_size=3, device=torch.device("cpu"))

    return make


def written(root, found):
    files = FeatureFiles(root, Blocks(len(IMAGES), 4))
    files.write(0, measure(found, IMAGES[:4]))
    files.write(1, measure(found, IMAGES[4:]))
    return files


def test_lpips_is_taken_of_each_image(tmp_path, tokenizer, tools):
    pytest.importorskip("torchvision")
    lpips, model = LpipsVgg(), tokenizer()
    found = fidelity_of(written(tmp_path, tools(model, lpips, ssim=False)), "stage2")
    assert list(found) == ["psnr", "lpips"]
    made = rebuild(tools(model), IMAGES)[1]["stage2"]
    a, b = (torch.from_numpy(each).float() / 255 for each in (IMAGES, made))
    with torch.no_grad():
        alone = [lpips.distance(lpips(a[row, None]), lpips(b[row, None])).item() for row in range(5)]
    assert found["lpips"] == pytest.approx(alone, rel=1e-4)
    assert len(set(alone)) == 5


def test_a_tokenizer_of_one_decoder_has_one_column(tmp_path, tokenizer, tools):
    model = tokenizer(stage2=False)
    assert model.stages == ("stage1",)
    files = written(tmp_path, tools(model))
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

    files = written(tmp_path, tools(Copies(1.0)))
    assert np.isinf(fidelity_of(files, "stage1")["psnr"]).all()
    assert fidelity_of(files, "stage1")["ssim"] == pytest.approx(1)
    with pytest.raises(AlitokError, match="Pixels of the stage1 decoder are not finite"):
        rebuild(tools(Copies(float("nan"))), IMAGES)
