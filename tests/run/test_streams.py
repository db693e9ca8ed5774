"""Iterators in, iterators out: what the jobs yield, and that a consumer is not left inside their contexts."""

import numpy as np
import torch

from alitok.recipes.presets import RECIPES
from alitok.run.encode import codes_of
from alitok.run.measure import reconstruct
from alitok.tokenizer import Tokenizer

CPU = torch.device("cpu")


def test_codes_and_reconstructions_agree_with_the_model_and_leave_no_mode_behind():
    tokenizer = Tokenizer(RECIPES["digits"].tokenizer).eval()
    originals = np.random.default_rng(0).integers(0, 256, (5, 3, 16, 16), dtype=np.uint8)
    images = torch.from_numpy(originals).float() / 255
    assert np.array_equal(codes_of(tokenizer, originals, CPU), tokenizer.encode(images).numpy())
    assert not torch.is_inference_mode_enabled()
    for stage in ("stage1", "stage2"):
        rebuilt = []
        for block in reconstruct(tokenizer, [originals[:3], originals[3:]], stage, CPU):
            assert not torch.is_inference_mode_enabled()
            rebuilt.append(block)
        expected = tokenizer.reconstruct(images, stage).detach().numpy()
        assert np.allclose(np.concatenate(rebuilt), expected, atol=1e-6)
