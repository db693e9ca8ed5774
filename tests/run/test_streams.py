"""Iterators in, iterators out: what the jobs yield, and that a consumer is not left inside their contexts."""

import numpy as np
import torch

from alitok.run.encode import codes_of
from alitok.run.measure import reconstruct
from alitok.tokenizer import DecoderConfig, EncoderConfig, Tokenizer, TokenizerConfig

SMALL = {"width": 16, "layers": 1, "heads": 2}
TOKENIZER = TokenizerConfig(
    image_size=6,
    patch_size=2,
    codebook_size=20,
    code_width=4,
    encoder=EncoderConfig(**SMALL),
    stage1=DecoderConfig(**SMALL, causal=True, extra_tokens=1, prefix_head=True),
    stage2=DecoderConfig(**SMALL, extra_tokens=2),
)
CPU = torch.device("cpu")


def test_codes_and_reconstructions_agree_with_the_model_and_leave_no_mode_behind():
    tokenizer = Tokenizer(TOKENIZER).eval()
    originals = np.random.default_rng(0).integers(0, 256, (5, 3, 6, 6), dtype=np.uint8)
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
