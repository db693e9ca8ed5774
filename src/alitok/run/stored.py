"""Are stored codes those of the images, of their views, of their classes, and of the tokenizer that decodes them?

Enters: a run whose codes are stored. Leaves: findings, and sheets of images above what their codes decode to.
Shapes: N images of a store, C views of each, B looked at, T codes of a sequence.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from alitok.core import images as pixels
from alitok.core.errors import AlitokError
from alitok.data.codes import CodeStore
from alitok.data.sources.decoded import crops_per_image
from alitok.metrics.reconstruction import psnr
from alitok.run.findings import Findings, by_class, rows_by_class
from alitok.run.run import Run
from alitok.run.stores import decode_rows
from alitok.tokenizer import Tokenizer

_LOOKED_AT = 32  # images of a store, spread over all of it
_SHOWN, _ROW = 16, 8
_FOUND_AGAIN = 0.98  # of the codes: in batches of another size, a few features change sides between two near codes
_LOST = 0.1  # decibels between images decoded from stored codes and from fresh ones
# Of the error of the mean image. Finished tokenizers of the photos recipe had 0.15 with the squared error alone and
# 0.6 with local features, a small one that was barely trained 0.75; an untrained one has more than 1.
DECODED = 0.9


def check_codes(run: Run, findings: Findings, *, images: bool) -> None:
    """Check the stores that a generator is about to be trained on; one process does.

    Args:
        run: its codes are stored.
        findings: told what is found.
        images: whether the run has the images that the codes stand for.
    """
    tokenizer = run.tokenizer().eval()
    for name in ("train", "val"):
        try:
            store = run.trainings.codes(name)
        except AlitokError as error:
            findings.check(f"{name}: store", "unusable", "usable", False, str(error))
            return
        if _classes_agree(run, store, name, findings) and images:
            _check_store(run, store, name, tokenizer, findings)
    if not findings.faults:
        store = run.trainings.codes("train")
        chosen = rows_by_class(store.image_labels, len(store.classes))
        decoded = decode_rows(store, chosen * store.crops, tokenizer)
        findings.sheet("classes", by_class(decoded, store.image_labels[chosen], store.classes))


def _classes_agree(run: Run, store: CodeStore, name: str, findings: Findings) -> bool:
    generator = run.trainings.new_generator()
    source = run.splits.train.classes
    agree = store.classes == source == generator.class_names and generator.config.classes == len(source)
    return findings.check(
        f"{name}: classes of images, codes and generator",
        [len(source), len(store.classes), generator.config.classes],
        "the same names in the same order",
        agree,
        f"the classes of the codes in {store.path} are not those of the images; {_again(store)}",
    )


def _check_store(
    run: Run, store: CodeStore, name: Literal["train", "val"], tokenizer: Tokenizer, findings: Findings
) -> None:
    source = getattr(run.splits, name)
    recipe = run.recipe.crops if name == "train" else "centre"
    wanted = len(source), crops_per_image(source, recipe)
    sized = findings.check(
        f"{name}: images, views of each",
        [store.images, store.crops],
        f"{list(wanted)}, as the source has",
        (store.images, store.crops) == wanted,
        f"{store.path} holds {store.images:,} images with {store.crops} views each, the source has {wanted[0]:,} "
        f"with {wanted[1]}; {_again(store)}",
    )
    if not sized:
        return
    wrong = int((store.labels != np.repeat(source.labels, store.crops)).sum())
    findings.check(
        f"{name}: rows whose label is not that of their image",
        wrong,
        "0",
        wrong == 0,
        f"{wrong:,} of {len(store):,} labels in {store.path} are not those of their images; {_again(store)}",
    )
    looked_at = np.unique(np.linspace(0, store.images - 1, _LOOKED_AT).astype(int))
    crops = np.arange(len(looked_at)) % store.crops  # of each another view
    views = np.stack([source.views(row, recipe)[crop] for row, crop in zip(looked_at.tolist(), crops, strict=True)])
    _compare(store, looked_at * store.crops + crops, views, name, tokenizer, findings)


@torch.inference_mode()
def _compare(
    store: CodeStore, rows: np.ndarray, views: np.ndarray, name: str, tokenizer: Tokenizer, findings: Findings
) -> None:
    """Images (B, 3, h, h) uint8 with the stored rows (B,) that should be theirs."""
    device = tokenizer.quantizer.codebook.device
    images = pixels.to_float(torch.from_numpy(views)).to(device)
    stored = torch.from_numpy(store.codes(rows).astype(np.int64)).to(device)
    fresh = tokenizer.encode(images)
    share = (fresh == stored).float().mean().item()
    ours, theirs = (tokenizer.decode(codes) for codes in (stored, fresh))
    shown = pixels.to_uint8(ours).cpu().numpy()
    findings.sheet(
        f"codes-{name}",
        [
            row
            for first in range(0, min(_SHOWN, len(views)), _ROW)
            for row in (
                ("images", views[first : first + _ROW]),
                ("from their stored codes", shown[first : first + _ROW]),
            )
        ],
    )
    other = (
        f"the codes in {store.path} are not those of the images they stand for (only {share:.1%} are found again): "
        f"the images, their order, their crops or the tokenizer are others; {_again(store)}"
    )
    findings.check(f"{name}: codes found again", share, f"at least {_FOUND_AGAIN}", share >= _FOUND_AGAIN, other)
    decibels = psnr(images, ours).mean().item(), psnr(images, theirs).mean().item()
    findings.tell(f"{name}: PSNR of images encoded and decoded now", decibels[1])
    bound = f"at most {_LOST} below that of images encoded and decoded now"
    findings.check(f"{name}: PSNR of decoded codes", decibels[0], bound, decibels[0] >= decibels[1] - _LOST, other)
    ratio = error_of_mean(images, theirs)
    findings.check(
        f"{name}: error of decoding, over that of the mean image",
        ratio,
        f"at most {DECODED}",
        ratio <= DECODED,
        f"the tokenizer does not draw its own codes: its error is {ratio:.2f} times that of one mean image for all. "
        "Train the tokenizer's stages again, in another directory.",
    )


def error_of_mean(images: torch.Tensor, decoded: torch.Tensor) -> float:
    """Mean squared error of decoded images (B, 3, h, h), over that of their mean image in place of each."""
    spread = (images - images.mean(0)).square().mean()
    return ((decoded - images).square().mean() / spread.clamp(min=1e-12)).item()


def _again(store: CodeStore) -> str:
    return f"delete {store.path.parent} and run the same command, which encodes the images again."
