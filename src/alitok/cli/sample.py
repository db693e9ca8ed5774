"""`alitok sample`: many images of a saved model, in one process or under torchrun."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter


@Parameter(name="*")
@dataclasses.dataclass(frozen=True)
class SamplingFlags:
    """How codes are drawn; what is not given is as the model says.

    Attributes:
        guidance_scale: strength of classifier-free guidance; 0 or 1 for none.
        guidance_power: bends the cosine schedule; larger = guidance sets in later.
        guidance_schedule: how the guidance grows over the sequence.
        guidance_start: share of the sequence at which guidance begins.
        guidance_stop: share of the sequence at which it ends.
        soft_guidance: SoftCFG: the unconditional branch listens less to codes drawn with confidence.
        temperature: divides the logits; 0 = always the likeliest code.
        top_k: draw among the k likeliest codes; 0 = all.
        top_p: draw among the likeliest codes that together reach this probability; 1 = all.
        min_p: draw among codes at least this share as likely as the likeliest; 0 = all.
    """

    guidance_scale: float | None = None
    guidance_power: float | None = None
    guidance_schedule: Literal["constant", "linear", "cosine"] | None = None
    guidance_start: float | None = None
    guidance_stop: float | None = None
    soft_guidance: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def given(self) -> dict[str, Any]:
        """The settings that the user named."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


AS_THE_MODEL_SAYS = SamplingFlags()


def sample(
    model: str,
    /,
    *,
    out: Path,
    num: int | None = None,
    per_class: int | None = None,
    classes: Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)] = None,
    seed: int = 0,
    format: Literal["png", "webp", "npz"] | None = None,
    batch_size: int | None = None,
    precision: Literal["fp32", "bf16", "int8"] = "fp32",
    sampling: SamplingFlags = AS_THE_MODEL_SAYS,
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto",
    fresh: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Draw many images; run again, it draws what is missing.

    Classes take turns, so that any beginning of a job is balanced: image i has class i % C of C classes. An image is
    a function of its number, the seed, the model and the settings: neither batch size nor number of processes nor
    interruptions change it (bf16 and int8 round differently in other batches and, on a CPU, with each start). On many
    GPUs or machines that share a disk, use torchrun: `torchrun --nproc-per-node 8 -m -- alitok sample ...`.

    Args:
        model: a directory with a saved pair, or `owner/name` on the hub.
        out: a directory, for files in class folders (a source that every command can read), or a file that ends in
            .npz, with arr_0 the images (N, h, h, 3) uint8 and arr_1 their class numbers (N,) int64.
        num: images in all; where the classes do not divide it, the first have one more. Without --num and --per-class
            one of each class, at most 64 in all.
        per_class: images of each class.
        classes: names or numbers, which take turns: image i has class i % C of C; all of the model's unless given.
        seed: of all images, which differ by their numbers.
        format: png, webp (lossless) or npz; by OUT unless given.
        batch_size: images drawn at a time; unless given 256 on a GPU and 64 elsewhere, or what fits into memory.
        precision: of the generator: bf16 and int8 (on a CPU) are faster and not exact.
        sampling: how codes are drawn.
        device: where to draw.
        fresh: delete what an earlier job wrote to OUT, and nothing else there, and start over.
    """
    from alitok.apps.sample.job import SampleOptions, run_sample

    run_sample(
        SampleOptions(
            model=model,
            out=out,
            num=num,
            per_class=per_class,
            classes=tuple(classes or ()),
            seed=seed,
            format=format,
            batch_size=batch_size,
            precision=precision,
            sampling=sampling.given(),
            device=device,
            fresh=fresh,
        )
    )
