"""Code stores as the start of a run: a generator is trained on them without the images, and a preflight checks them.

Shapes: N images of a store, C crops of each, B images compared, T codes of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import torch

from alitok.core import images as pixels
from alitok.core.errors import AlitokError
from alitok.core.files import remove
from alitok.data.codes import CodeStore
from alitok.data.crops import CropRecipe
from alitok.data.sources.decoded import crops_per_image
from alitok.data.sources.images import Broken
from alitok.data.split import Splits
from alitok.metrics.reconstruction import psnr
from alitok.run.findings import Findings, by_class, rows_by_class
from alitok.run.run import Run
from alitok.tokenizer import Tokenizer

_BATCH = 32
_HOW = "alitok encode --split train, and --split val, makes them"
_COMPARED = 32  # images of a store, evenly spaced
_SHOWN, _ROW = 16, 8
_SAME_CODES = 0.98  # in batches of another size, a few features round to another of two near codes
_LOST = 0.1  # dB between images decoded from stored and from new codes
# Of the MSE of the mean image. Finished tokenizers of the photos recipe had 0.15 with the MSE alone and
# 0.6 with local features, a small one that was barely trained 0.75; an untrained one has more than 1.
_DECODED = 0.9


@dataclass(frozen=True)
class Stores:
    """Codes of the training and the validation set, and what encoded both."""

    train: CodeStore
    val: CodeStore
    tokenizer: Tokenizer

    def splits(self) -> Splits:
        """The images of the codes, as splits that cannot be read."""
        heads = self.train.head, self.val.head
        contents = " ".join(f"{head.contents}/{head.recipe}/{head.listing}/{head.tokenizer}" for head in heads)
        parts = [_Absent(f"{store.path} ", store.classes, store.image_labels) for store in (self.train, self.val)]
        return Splits(parts[0], parts[1], heads[0].source or str(self.train.path), contents)

    def settings(self) -> dict[str, Any]:
        """Where the codes are, for `run.toml`."""
        paths = {"train": self.train.path, "val": self.val.path}
        return {"codes": {name: str(path.resolve()) for name, path in paths.items()}}

    def place(self, root: Path) -> None:
        """Put links to the stores, and the tokenizer, where a run keeps its own."""
        for name, store in (("train", self.train), ("val", self.val)):
            link = root / "codes" / name
            link.parent.mkdir(parents=True, exist_ok=True)
            if link.is_symlink():
                remove(link)
            if not link.exists():
                link.symlink_to(store.path.resolve(), target_is_directory=True)
        if not (root / "model" / "tokenizer").exists():
            self.tokenizer.save_pretrained(root / "model" / "tokenizer")


def open_stores(train: Path, val: Path | None, tokenizer: Path | None) -> Stores:
    """Open both stores and their tokenizer: a saved one, a pipeline's, or None for the path in the store.

    Raises:
        AlitokError: one is missing, unfinished or damaged, or they do not belong together.
    """
    if val is None:
        raise AlitokError(f"--codes needs --val-codes, codes of the validation set; {_HOW}.")
    store = CodeStore(train)
    model = tokenizer_of(store, tokenizer)
    other = CodeStore(val, store.tokenizer)
    if other.classes != store.classes:
        raise AlitokError(f"{train} and {val} have different classes; encode both splits of one data set.")
    if "all" in (store.head.split, other.head.split) or other.head.listing == store.head.listing:
        raise AlitokError(f"{train} and {val} hold images in common; {_HOW}.")
    return Stores(store, other, model)


@dataclass(eq=False)
class _Absent:
    """Images known by their codes alone."""

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray
    size: int = 0
    flip: bool = False
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, index: int) -> str:
        self._reject()

    def read(self, index: int, rng: np.random.Generator | None) -> np.ndarray:
        self._reject()

    def views(self, index: int, recipe: CropRecipe) -> np.ndarray:
        self._reject()

    def verify(self, progress: Callable[[int], None] | None = None, part: tuple[int, int] = (0, 1)) -> list[Broken]:
        return []

    def without(self, keys: Collection[str]) -> _Absent:
        return self

    def _reject(self) -> NoReturn:
        raise AlitokError(f"{self.name}holds codes, not images; this needs a run on the images.")


def decode_rows(codes: CodeStore, rows: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """The images (n, 3, h, h) uint8 of rows (n,); `tokenizer` is in evaluation mode, on any device."""
    device = tokenizer.quantizer.codebook.device
    found = []
    for start in range(0, len(rows), _BATCH):
        part = torch.from_numpy(codes.codes(rows[start : start + _BATCH]).astype(np.int64)).to(device)
        with torch.inference_mode():
            found.append(pixels.to_uint8(tokenizer.decode(part)).cpu().numpy())
    return np.concatenate(found)


def tokenizer_of(codes: CodeStore, given: Path | None = None) -> Tokenizer:
    """The tokenizer that encoded a store; None takes the path in the store.

    Raises:
        AlitokError: it is missing, or another one.
    """
    place = given or codes.head.tokenizer_path
    if not place:
        raise AlitokError(f"{codes.path} does not name its tokenizer; give it with --tokenizer.")
    try:
        found = Tokenizer.from_pretrained(place)
    except AlitokError as error:
        if given is not None:
            raise
        raise AlitokError(f"The tokenizer of {codes.path} is missing ({error}) Give it with --tokenizer.") from None
    if found.codes_fingerprint() != codes.tokenizer:
        raise AlitokError(
            f"The tokenizer at {place} is not the one that encoded {codes.path}; "
            "give that one with --tokenizer, or encode the images again."
        )
    return found


def check_codes(run: Run, findings: Findings, *, images: bool) -> None:
    """Check the stored codes that a generator is about to be trained on, and their `images` if any, on one rank."""
    tokenizer = run.load_tokenizer().eval()
    for name in ("train", "val"):
        try:
            store = run.trainings.codes(name)
        except AlitokError as error:
            findings.check(f"{name}: store", "unusable", "usable", False, str(error))
            return
        generator, source = run.trainings.new_generator(), run.splits.train.classes
        agree = findings.check(
            f"{name}: classes of images, codes and generator",
            [len(source), len(store.classes), generator.config.classes],
            "the same names in the same order",
            store.classes == source == generator.class_names and generator.config.classes == len(source),
            f"the classes of the codes in {store.path} are not those of the images; {_advice(store)}",
        )
        if agree and images:
            _check_store(run, store, name, tokenizer, findings)
    if not findings.faults:
        store = run.trainings.codes("train")
        chosen = rows_by_class(store.image_labels, len(store.classes))
        decoded = decode_rows(store, chosen * store.crops, tokenizer)
        findings.sheet("classes", by_class(decoded, store.image_labels[chosen], store.classes))


def _check_store(
    run: Run, store: CodeStore, name: Literal["train", "val"], tokenizer: Tokenizer, findings: Findings
) -> None:
    source = getattr(run.splits, name)
    recipe = run.recipe.crops if name == "train" else "centre"
    wanted = len(source), crops_per_image(source, recipe)
    sized = findings.check(
        f"{name}: images, views of each",
        [store.images, store.crops],
        f"{list(wanted)}, as in the source",
        (store.images, store.crops) == wanted,
        f"{store.path} holds {store.images:,} images with {store.crops} views each, the source has {wanted[0]:,} "
        f"with {wanted[1]}; {_advice(store)}",
    )
    if not sized:
        return
    wrong = int((store.labels != np.repeat(source.labels, store.crops)).sum())
    findings.check(
        f"{name}: rows whose label is not that of their image",
        wrong,
        "0",
        wrong == 0,
        f"{wrong:,} of {len(store):,} labels in {store.path} are not those of their images; {_advice(store)}",
    )
    compared = np.unique(np.linspace(0, store.images - 1, _COMPARED).astype(int))
    crops = np.arange(len(compared)) % store.crops  # of each another view
    views = np.stack([source.views(row, recipe)[crop] for row, crop in zip(compared.tolist(), crops, strict=True)])
    _compare(store, compared * store.crops + crops, views, name, tokenizer, findings)


@torch.inference_mode()
def _compare(
    store: CodeStore, rows: np.ndarray, views: np.ndarray, name: str, tokenizer: Tokenizer, findings: Findings
) -> None:
    """Images (B, 3, h, h) uint8 with the stored rows (B,) that should be theirs."""
    device = tokenizer.quantizer.codebook.device
    images = pixels.to_float(torch.from_numpy(views)).to(device)
    stored = torch.from_numpy(store.codes(rows).astype(np.int64)).to(device)
    fresh = tokenizer.encode(images)
    same = (fresh == stored).float().mean().item()
    ours, theirs = (tokenizer.decode(codes) for codes in (stored, fresh))
    shown = pixels.to_uint8(ours).cpu().numpy()
    rows_shown = []
    for first in range(0, min(_SHOWN, len(views)), _ROW):
        rows_shown.append(("images", views[first : first + _ROW]))
        rows_shown.append(("from stored codes", shown[first : first + _ROW]))
    findings.sheet(f"codes-{name}", rows_shown)
    other = (
        f"the codes in {store.path} are not those of their images (only {same:.1%} are the same): "
        f"the images, their order, their crops or the tokenizer differ; {_advice(store)}"
    )
    findings.check(f"{name}: same codes", same, f"at least {_SAME_CODES}", same >= _SAME_CODES, other)
    decibels = psnr(images, ours).mean().item(), psnr(images, theirs).mean().item()
    findings.record(f"{name}: PSNR of images encoded and decoded now", decibels[1])
    bound = f"at most {_LOST} below that of images encoded and decoded now"
    findings.check(f"{name}: PSNR of decoded codes", decibels[0], bound, decibels[0] >= decibels[1] - _LOST, other)
    advice = "Train the tokenizer's stages again, in another directory."
    check_mse(f"{name}: MSE of decoding", "the tokenizer", images, theirs, advice, findings)


def check_mse(
    name: str, model: str, images: torch.Tensor, decoded: torch.Tensor, advice: str, findings: Findings
) -> None:
    """Check the MSE of decoded images (B, 3, h, h) over that of the mean image."""
    spread = (images - images.mean(0)).square().mean()
    ratio = ((decoded - images).square().mean() / spread.clamp(min=1e-12)).item()
    fault = f"{model} does not reconstruct from its own codes: its MSE is {ratio:.2f} times that of the mean image."
    bound = f"at most {_DECODED}"
    findings.check(f"{name}, over that of the mean image", ratio, bound, ratio <= _DECODED, f"{fault} {advice}")


def _advice(store: CodeStore) -> str:
    return f"delete {store.path.parent} and run the same command, which encodes the images again."
