"""What the page's tests serve: a tiny pair of random weights, and the files of a training."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image

from alitok.generator import Generator, GeneratorConfig
from alitok.sampling import SamplingConfig
from alitok.sampling.pipeline import Pipeline
from alitok.tokenizer import DecoderConfig, EncoderConfig, Tokenizer, TokenizerConfig

CLASSES = ("tench", "goldfish", "great white shark", "tiger shark", "hammerhead", "cock", "hen", "ostrich")
_TOKENIZER = TokenizerConfig(
    image_size=16,
    patch_size=4,
    codebook_size=32,
    code_width=4,
    encoder=EncoderConfig(width=16, layers=1, heads=2),
    stage1=DecoderConfig(width=16, layers=1, heads=2, causal=True, extra_tokens=1, prefix_head=True),
    stage2=DecoderConfig(width=16, layers=1, heads=2, extra_tokens=2),
)
_GENERATOR = GeneratorConfig(grid=4, prefix=4, codebook_size=32, classes=len(CLASSES), layers=1, width=16, heads=2)


def random_pipeline() -> Pipeline:
    """Sixteen pixels a side, four rows of patches, eight classes."""
    torch.manual_seed(0)
    tokenizer, generator = Tokenizer(_TOKENIZER).eval(), Generator(_GENERATOR, CLASSES).eval()
    for model in (tokenizer, generator):
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return Pipeline(tokenizer, generator, SamplingConfig(guidance_scale=2.0))


def write_run(folder: Path) -> Path:
    """What a training of two stages leaves, as far as the page shows it."""
    for stage in ("stage1", "generator"):
        images = folder / stage / "images"
        images.mkdir(parents=True)
        records = [{"step": step, "loss": 100 / step, "learning_rate": 1e-4} for step in range(10, 310, 10)]
        records += [{"step": step, "val_psnr": 10 + step / 50} for step in (100, 200, 300)]
        (folder / stage / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        for step in (100, 200, 300):
            Image.new("RGB", (64, 32), (step % 256, 80, 120)).save(images / f"reconstructions-{step:06d}.png")
    return folder
