"""`alitok train`: one stage of a run, in one process or under torchrun."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def train(
    stage: Literal["stage1", "stage2", "generator"],
    /,
    *,
    out: Path,
    data: str | None = None,
    preset: str | None = None,
    size: Literal["B", "L", "XL"] | None = None,
    codes: Path | None = None,
    val_codes: Path | None = None,
    tokenizer: Path | None = None,
    perceptual: Literal["recipe", "none", "local", "convnext", "lpips"] = "recipe",
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    preflight: Annotated[bool, Parameter(negative="")] = False,
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto",
    seed: int | None = None,
    config: Path | None = None,
    override: Annotated[list[str] | None, Parameter(name="--set", negative="", consume_multiple=True)] = None,
) -> None:
    """Train one stage, all its phases in one go; run again, it continues where it stopped.

    All stages of a run share OUT: later ones take data and recipe from its run.toml. On several GPUs or machines, start
    it with torchrun: `torchrun --nproc-per-node 8 -m alitok train stage1 ...`. SIGTERM saves and exits with 0; torchrun
    passes it on and exits with 1, but with 0 if a process below it gets the signal in its place: `pkill -TERM -P PID`.

    Args:
        stage: stage1 (encoder, codebook, causal decoder), stage2 (bidirectional decoder), or generator.
        out: the directory of the run.
        data: `digits`, `photos`, a folder, a labels file, tar shards, or a Hugging Face data set; see `docs/data.md`.
        preset: a recipe by name: digits, photos, small, base, alitok-256, alitok-256-v1 or alitok-512; auto (unless the
            run has one already) takes that of a built-in set, else base on a GPU and small elsewhere.
        size: a published generator, with its training and guidance.
        codes: for the generator, in place of --data: a store that `alitok encode --split train` wrote.
        val_codes: with --codes, one of `--split val`.
        tokenizer: with --codes, what made them; the one that the store names unless given.
        perceptual: put the recipe's perceptual weight on one feature network, or on none; local is learnt from the
            images.
        dry_run: show the plan (steps, images, epochs, schedule) and stop.
        preflight: do the steps before the stage, check images, labels and codes, learn one batch by heart, write what
            was found to OUT/preflight/, and stop.
        device: where to compute; auto takes the first of cuda, mps and cpu that is there.
        seed: of everything that is drawn at random; 0 unless given.
        config: a TOML file with recipe keys that replace the preset's; lists are replaced whole.
        override: single recipe keys, such as `--set stage1.phases.main.steps=100 engine.grad_accum_steps=2`.
    """
    from alitok.run.resolve import Request
    from alitok.run.train import run_training

    request = Request(
        out=out,
        data=data,
        preset=preset,
        size=size,
        perceptual=perceptual,
        config=config,
        overrides=tuple(override or ()),
        device=device,
        seed=seed,
        codes=codes,
        val_codes=val_codes,
        tokenizer=tokenizer,
    )
    run_training(stage, request, dry_run=dry_run, preflight=preflight)
