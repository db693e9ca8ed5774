"""The names that a refactor may change: commands, settings, files, routes, modules."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from alitok import Engine, Pipeline, SampleRequest, SamplingConfig
from alitok.generator import Generator

# Old -> new, applied in order to the keys of the earlier recording, wherever the text occurs in a key.
RENAMED: dict[str, str] = {
    "on held-out pictures": "on validation images",
    "pictures": "images",
    "picture": "image",
    "heldout": "val",
    "recompute": "activation_checkpointing",
    "limits.most_": "limits.max_",
    "settings.most_side": "settings.max_image_size",
    "second_steps": "stage2_steps",
}

RECIPE = (
    "stage1.phases.main.steps=60 stage1.phases.main.warmup_steps=10 "
    "stage2.phases.main.steps=20 stage2.phases.main.warmup_steps=5 "
    "generator.phases.main.steps=40 generator.phases.main.warmup_steps=5 samples_per_class=2"
)
COMMANDS = {
    "demo": f"demo --out {{out}} --device cpu --set {RECIPE}",
    "sample": "sample {model} --out {out} --classes 3 7 0 --num 7 --seed 11 --guidance-scale 3 --top-k 0 "
    "--precision fp32 --device cpu",
    "generation": "eval generation {model} --out {out} --data digits --features classifier --per-class 4 --seed 3 "
    "--device cpu",
    "reconstruction": "eval reconstruction {model} --out {out} --data digits --features classifier --num 64 "
    "--device cpu",
    "encode": "encode --tokenizer {model} --data {data} --crops {crops} --out {out} --device cpu",
    "inspect": "data inspect {data} --json {out} --sheet {sheet}",
    "train": "train stage1 --out {out} --data digits --preset digits --device cpu "
    f"--set {RECIPE} stage1.loop.checkpoint_every=10 stage1.loop.log_every=5",
    "plan": "plan --preset alitok-256 --generator L --gpus 32 --gpu a800 --json",
    "serve": "serve {model} --port 0 --batch-size 4 --device cpu",
    "probe": "probe --tokenizer {model} --generator {model} --data digits --out {out} --images 4 --per-position 2 "
    "--device cpu",
    "ablate": "ablate --data digits --out {out} --arms D --codebook-sizes 64 --parallel 1 --device cpu "
    "--set tokenizer_steps=10 generator_steps=10 samples=20 width=32 layers=1",
    "convert": "convert released --tokenizer {states}/stage1.safetensors --tokenizer {states}/stage2.safetensors "
    "--generator {states}/generator.safetensors --out {out} --encoder-heads 2 --decoder-heads 2 --heads 2",
    "convert back": "convert to-released {model} --out {out}",
}
MULTI_CROP, SINGLE_CROP = "ten", "centre"
STORED = "codes-*.npy", "labels-*.npy"  # of a store
STEP_LOG = "stage1/metrics.jsonl"  # of a run, likewise the next three
STAGE1 = "stage1/tokenizer"
MODEL = "model"
TOKENIZER = "model/tokenizer"
STAGE1_PARTS = "encoder", "quantizer", "stage1"
RELEASED_BACK = {"AliTok_stage1.pth": "stage1", "AliTok.pth": "stage2", "alitok_generator.bin": "generator"}
ROUTES = {
    "health": "/healthz",
    "models": "/v1/models",
    "images": "/v1/images",
    "stream": "/v1/images/stream",
    "encode": "/v1/encode",
    "decode": "/v1/decode",
    "reconstruct": "/v1/reconstruct",
}
UPLOAD, CODES = "image", "codes"  # fields of requests and answers
SAMPLING: dict[str, dict[str, Any]] = {  # fields of `SamplingConfig`
    "own": {},
    "plain": {"guidance_scale": 1.0, "top_k": 0},
    "guided": {"guidance_scale": 6.0, "guidance_power": 0.7, "top_k": 0},
    "linear_part": {"guidance_scale": 4.0, "guidance_schedule": "linear", "guidance_start": 0.2, "guidance_stop": 0.8},
    "cold": {"temperature": 0.6},
    "greedy": {"temperature": 0.0},
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.7, "top_k": 0},
    "min_p": {"min_p": 0.2, "top_k": 0},
    "soft": {"guidance_scale": 5.0, "soft_guidance": True},
}


def sample_codes(pipeline: Pipeline, settings: dict[str, Any]) -> torch.Tensor:
    """By the plain kernel: the others are chosen by their time, and may round a logit differently."""
    sampling = dataclasses.replace(pipeline.sampling, **settings)
    return Engine(pipeline.generator, kernel="plain").sample(pipeline.requests([3, 7, 0, 3], seed=5, sampling=sampling))


def greedy_codes(generator: Generator, classes: list[int]) -> torch.Tensor:
    settings = SamplingConfig(guidance_scale=6.0, guidance_power=0.7, temperature=0.0)
    return Engine(generator, kernel="plain").sample([SampleRequest(label, sampling=settings) for label in classes])
