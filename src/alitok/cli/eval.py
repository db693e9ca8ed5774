"""`alitok eval`: numbers of samples and of reconstructions, each against its own reference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from alitok.cli.typed import typed_command
from alitok.core.errors import AlitokError
from alitok.sampling import SamplingOverrides

_AS_THE_MODEL = SamplingOverrides()

app = App(name="eval", help="Measure samples or reconstructions against real images, each with its own reference.")


@app.command
def generation(
    judged: str,
    /,
    *,
    out: Path,
    reference: str | None = None,
    data: str | None = None,
    data_seed: int = 0,
    features: Literal["inception", "classifier"] = "inception",
    inception_weights: Path | None = None,
    num: int | None = None,
    per_class: int | None = None,
    classes: Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)] = None,
    seed: int = 0,
    batch_size: int | None = None,
    precision: Literal["fp32", "bf16", "int8"] = "fp32",
    sampling: Annotated[SamplingOverrides, Parameter(name="*")] = _AS_THE_MODEL,
    sweep: str | None = None,
    scales: Annotated[list[float] | None, Parameter(negative="", consume_multiple=True)] = None,
    powers: Annotated[list[float] | None, Parameter(negative="", consume_multiple=True)] = None,
    sweep_num: int | None = None,
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto",
    fresh: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """How much samples look like real images: gFID, sFID, Inception Score, precision, recall, density, coverage, KID.

    The images of a model go straight into the feature network. What is done is kept in OUT, so that the same command
    goes on after an interruption, and another reference needs no new samples. On many GPUs or machines that share a
    disk, use torchrun: `torchrun --nproc-per-node 8 -m -- alitok eval generation ...`.

    Args:
        judged: a saved pair, by its directory or its name on the hub; or finished samples: an npz file with arr_0, or
            a folder (or any other source) of square images of one size.
        out: a directory for evaluation.json, report.html and what the feature network said.
        reference: what samples should look like: ADM's npz (its mu and sigma are used as they are), a file of
            `alitok eval reference`, or a source of images; unless given, the training images of --data.
        data: the real images, for a classifier to learn, for nearest neighbours, and where no reference is given.
        data_seed: decides which images of --data are for training, where the data does not; that of the training.
        features: inception, whose distance is FID; or classifier: a small network that learns the classes of --data,
            needs no download, and whose distance is no FID.
        inception_weights: file of the TensorFlow Inception's weights; unless given, PyTorch's cache, or a download.
        num: samples in all, with a model.
        per_class: samples of each class, with a model; 50 unless a number is given.
        classes: names or numbers; all of the model's unless given.
        seed: of all samples, which differ by their numbers.
        batch_size: samples drawn at a time; unless given what fits, at most 256 on a GPU and 64 elsewhere.
        precision: of the generator: bf16 and int8 (on a CPU) are faster and not exact.
        sampling: how codes are drawn.
        sweep: settings to try first, `scale`, `power` or `scale,power`: each combination is judged by fewer samples,
            and the one of the least distance by all.
        scales: guidance scales to try; unless given five around the model's own.
        powers: guidance powers to try; likewise.
        sweep_num: samples of each setting that is tried; 5000 unless given, or all if they are fewer.
        device: where to compute.
        fresh: throw away what an earlier evaluation left in OUT.
    """
    from alitok.apps.evaluate.generation import GenerationOptions, run_eval_generation

    run_eval_generation(
        GenerationOptions(
            judged=judged,
            out=out,
            reference=reference,
            data=data,
            data_seed=data_seed,
            features=features,
            inception_weights=inception_weights,
            num=num,
            per_class=per_class,
            classes=tuple(classes or ()),
            seed=seed,
            batch_size=batch_size,
            precision=precision,
            sampling=sampling,
            sweep=_swept(sweep, scales, powers),
            sweep_num=sweep_num,
            device=device,
            fresh=fresh,
            command=typed_command(),
        )
    )


def _swept(names: str | None, scales: list[float] | None, powers: list[float] | None) -> dict[str, tuple[float, ...]]:
    """The values to try by name; no values mean some around the model's own."""
    given = {"scale": tuple(scales or ()), "power": tuple(powers or ())}
    asked = [name.strip() for name in names.split(",")] if names else []
    for name in asked:
        if name not in given:
            raise AlitokError(f"--sweep tries scale, power, or scale,power, but not '{name}'.")
    for name, values in given.items():
        if values and name not in asked:
            raise AlitokError(f"--{name}s are values that --sweep {name} tries; add it, or leave them out.")
    return {name: given[name] for name in asked}


@app.command
def reconstruction(
    tokenizer: Path,
    /,
    *,
    data: str,
    out: Path,
    split: Literal["val", "train", "all"] = "val",
    num: int | None = None,
    seed: int = 0,
    reference: str | None = None,
    features: Literal["inception", "classifier"] = "inception",
    inception_weights: Path | None = None,
    lpips_vgg: str | None = None,
    lpips_heads: str | None = None,
    batch_size: int = 64,
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto",
    fresh: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """How near reconstructions are to their images: rFID, PSNR, SSIM, LPIPS, codebook use; stage 1 beside stage 2.

    Held-out images go through the same crop as in training. What is done is kept in OUT: the same command goes on
    after an interruption. Under torchrun the images are shared out over the processes.

    Args:
        tokenizer: a saved tokenizer, or a saved pair that has one.
        data: the real images; their held-out part is reconstructed, and is the reference.
        out: a directory for evaluation.json, report.html and what the feature network said.
        split: which images.
        num: how many of them, drawn by the seed; all unless given.
        seed: decides which images are held out, where the data does not; that of the training, or some were seen.
        reference: a file of `alitok eval reference --split val`, instead of the images' own statistics.
        features: inception, whose distance is FID; or classifier: a small network that learns the classes of --data;
            nothing is downloaded then, not for LPIPS either.
        inception_weights: file of the TensorFlow Inception's weights; unless given, PyTorch's cache, or a download.
        lpips_vgg: torchvision's VGG16 weights for LPIPS; unless given, its cache, or a download.
        lpips_heads: the five heads of LPIPS 0.1; unless given, those of the lpips package.
        batch_size: images at a time.
        device: where to compute.
        fresh: throw away what an earlier evaluation left in OUT.
    """
    from alitok.apps.evaluate.reconstruction import ReconstructionOptions, run_eval_reconstruction
    from alitok.losses.perceptual import PerceptualWeights

    run_eval_reconstruction(
        ReconstructionOptions(
            tokenizer=tokenizer,
            data=data,
            out=out,
            split=split,
            num=num,
            seed=seed,
            reference=reference,
            features=features,
            inception_weights=inception_weights,
            lpips=PerceptualWeights(vgg=lpips_vgg, lpips_heads=lpips_heads),
            batch_size=batch_size,
            device=device,
            fresh=fresh,
            command=typed_command(),
        )
    )


@app.command
def reference(
    data: str,
    /,
    *,
    out: Path,
    size: int,
    split: Literal["train", "val", "all"] = "train",
    kind: Literal["generation", "reconstruction"] | None = None,
    features: Literal["inception", "classifier"] = "inception",
    inception_weights: Path | None = None,
    seed: int = 0,
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto",
    fresh: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Write the statistics of real images to one file, which later evaluations take as their --reference.

    The file knows which question it answers: statistics of training images are for generation, those of held-out
    images for reconstruction, and neither is taken for the other.

    Args:
        data: the real images.
        out: a file that ends in .npz; 68 MB with Inception, and features of up to 10,000 images, 82 MB.
        size: pixels a side that the images are cut to, that of what will be judged.
        split: which images.
        kind: what it is a reference for; by the split unless given.
        features: the network; see `alitok eval generation`.
        inception_weights: file of the TensorFlow Inception's weights; unless given, PyTorch's cache, or a download.
        seed: decides which images are held out, where the data does not.
        device: where to compute.
        fresh: throw away what a start that was stopped left beside OUT.
    """
    from alitok.apps.evaluate.reference import ReferenceOptions, run_eval_reference

    run_eval_reference(
        ReferenceOptions(
            data=data,
            out=out,
            size=size,
            split=split,
            kind=kind,
            features=features,
            inception_weights=inception_weights,
            seed=seed,
            device=device,
            fresh=fresh,
        )
    )
