"""Iterators in, iterators out: what the jobs yield, and that a consumer is not left inside their contexts."""

import numpy as np
import torch

from alitok.jobs.reconstruct import reconstruct
from alitok.jobs.tokenize import tokenize
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


def test_tokenize_and_reconstruct_agree_with_the_model_and_leave_no_mode_behind():
    tokenizer = Tokenizer(TOKENIZER).eval()
    pictures = np.random.default_rng(0).integers(0, 256, (5, 3, 6, 6), dtype=np.uint8)
    images = torch.from_numpy(pictures).float() / 255
    batches = [(pictures[:3], np.array([0, 1, 2])), (pictures[3:], np.array([3, 4]))]
    codes, labels = [], []
    for block, classes in tokenize(tokenizer, batches, CPU):
        assert not torch.is_inference_mode_enabled()
        codes.append(block)
        labels.extend(classes.tolist())
    assert np.array_equal(np.concatenate(codes), tokenizer.encode(images).numpy())
    assert labels == [0, 1, 2, 3, 4]
    for stage in ("stage1", "stage2"):
        rebuilt = []
        for block in reconstruct(tokenizer, (block for block, _ in batches), stage, CPU):
            assert not torch.is_inference_mode_enabled()
            rebuilt.append(block)
        expected = tokenizer.reconstruct(images, stage).detach().numpy()
        assert np.allclose(np.concatenate(rebuilt), expected, atol=1e-6)
