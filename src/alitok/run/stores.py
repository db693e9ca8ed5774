"""Stored codes as the beginning of a run: a generator is trained on them without the images they were made of.

Enters: two finished stores, for training and held out, and the tokenizer that made them. Leaves: splits that know how
many images there are and of which classes, and a run's directory that looks as if it had encoded them itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from alitok.core import images as pixels
from alitok.core.errors import AlitokError
from alitok.core.files import remove
from alitok.data.codes import CodeStore
from alitok.data.crops import CropRecipe
from alitok.data.sources.images import Broken
from alitok.data.split import Splits
from alitok.data.survey import Preview
from alitok.tokenizer import Tokenizer

_BATCH = 32
_HOW = "alitok encode --split train, and --split val, makes them"


@dataclass(frozen=True)
class Stores:
    """Codes to train on, codes to look at, and what made both."""

    train: CodeStore
    val: CodeStore
    tokenizer: Tokenizer

    def splits(self) -> Splits:
        """The images that the codes stand for, as splits of which nothing can be read."""
        heads = self.train.head, self.val.head
        contents = " ".join(f"{head.contents}/{head.recipe}/{head.listing}/{head.tokenizer}" for head in heads)
        parts = [_Absent(f"{store.path} ", store.classes, store.image_labels) for store in (self.train, self.val)]
        return Splits(parts[0], parts[1], heads[0].source or str(self.train.path), contents)

    def look(self) -> Preview:
        """What decides the size of a generator that is cut to the images."""
        return Preview(self.tokenizer.config.image_size, self.train.images)

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
    """Open both stores and their tokenizer.

    Args:
        train: the store to train on.
        val: the store to look at.
        tokenizer: a saved tokenizer or pair; None takes the one that the store names.

    Raises:
        AlitokError: one is missing, unfinished or damaged, or they do not belong together.
    """
    if val is None:
        raise AlitokError(f"--codes needs --val-codes, codes of images that are not trained on; {_HOW}.")
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
    """Images that are known by their codes alone."""

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray
    size: int = 0
    flip: bool = False
    groups: np.ndarray | None = field(default=None)

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, index: int) -> str:
        self._refuse()

    def read(self, index: int, rng: np.random.Generator | None) -> np.ndarray:
        self._refuse()

    def views(self, index: int, recipe: CropRecipe) -> np.ndarray:
        self._refuse()

    def verify(self, progress: Callable[[int], None] | None = None, part: tuple[int, int] = (0, 1)) -> list[Broken]:
        return []

    def without(self, keys: Collection[str]) -> _Absent:
        return self

    def _refuse(self) -> NoReturn:
        raise AlitokError(f"{self.name}holds codes and no images; this needs a run on the images themselves.")


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
    """The tokenizer that made a store's codes; without one given, that which the store names.

    Raises:
        AlitokError: it is gone, or another one.
    """
    place = given or codes.head.tokenizer_path
    if not place:
        raise AlitokError(f"{codes.path} does not say where its tokenizer is; name it with --tokenizer.")
    try:
        found = Tokenizer.from_pretrained(place)
    except AlitokError as error:
        if given is not None:
            raise
        raise AlitokError(
            f"The tokenizer of {codes.path} is not where it was ({error}) Name it with --tokenizer."
        ) from None
    if found.codes_fingerprint() != codes.tokenizer:
        raise AlitokError(
            f"The tokenizer at {place} is not the one that made the codes in {codes.path}; "
            "name that one with --tokenizer, or encode the images again."
        )
    return found
