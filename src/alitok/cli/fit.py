"""`alitok fit`: from images to models and a report, in one line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from alitok.cli.typed import typed_command


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What whole runs have in common.

    Attributes:
        fresh: start over, replacing what an earlier run wrote to OUT.
        device: where to compute; auto takes the first of cuda, mps and cpu that is there.
        seed: of everything that is drawn at random; 0 unless given.
        config: a TOML file with recipe keys that replace the preset's.
        override: single recipe keys, such as `--set stage1.phases.main.steps=100 sampling.top_k=20`.
    """

    fresh: Annotated[bool, Parameter(negative="")] = False
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    seed: int | None = None
    config: Path | None = None
    override: Annotated[list[str] | None, Parameter(name="--set", negative="", consume_multiple=True)] = None


_DEFAULT = RunOptions()


def fit(
    source: str,
    /,
    *,
    out: Path | None = None,
    preset: str | None = None,
    perceptual: Literal["recipe", "none", "local", "convnext", "lpips"] = "recipe",
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    options: RunOptions = _DEFAULT,
) -> None:
    """Train stage 1, stage 2 and the generator on your images, draw samples, measure them, and write a report.

    A plan with the time that each step will take on this machine comes first. Run again, it continues where it
    stopped; with other options it does again what depends on them, keeps the rest, and moves what it replaces aside.

    Args:
        source: `digits`, `photos`, a folder, a labels file, tar shards, or a Hugging Face data set; see `docs/data.md`.
        out: where everything is written; runs/NAME unless given.
        preset: auto (the default for new runs): a recipe cut to your images, base on a GPU and small elsewhere, or
            the recipe of a built-in set; small; base; or any recipe by name, such as alitok-256.
        perceptual: put the recipe's perceptual weight on one feature network, or on none; local is learnt from the
            images.
        dry_run: show the plan and stop.
        options: what all whole runs have.
    """
    from alitok.run.originals import file_name

    out = out or Path("runs", file_name(source))
    run(source, out, options, dry_run, preset=preset, perceptual=perceptual)


def run(source: str, out: Path, options: RunOptions, dry_run: bool = False, **choices: Any) -> None:
    """Do a whole run on `source`; `choices` are those of `Request` that not all whole runs have."""
    from alitok.run.fit import run_fit
    from alitok.run.resolve import Request

    request = Request(
        out=out,
        data=source,
        config=options.config,
        overrides=tuple(options.override or ()),
        seed=options.seed,
        fresh=options.fresh,
        device=options.device,
        **choices,
    )
    run_fit(request, command=typed_command(), dry_run=dry_run)
