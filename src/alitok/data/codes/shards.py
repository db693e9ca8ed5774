"""A code store on disk, and how it is written: shard by shard, each written once.

    manifest.json          written last: the header, and every shard's files with their checksums
    codes-00000.npy        (rows, T) uint16
    labels-00000.npy       (images,) uint16, or int32 with more than 65,536 classes
    keys-00000.json.gz     a list of the images' names in their source
    job.json               the header, until the store is finished
    shard-00000.json       the manifest entry of a finished shard, until the store is finished

Rows are ordered image by image over all shards: row r is crop r % C of image r // C. Shards hold whole images.
C crops of an image, T codes of a sequence.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from alitok.core.config import config, from_dict
from alitok.core.errors import AlitokError
from alitok.core.files import atomic_path, create_bytes, read_json, remove, sha256, write_json

FORMAT = 3
MAX_CODEBOOK = 1 << 16  # values of uint16
MANIFEST, JOB = "manifest.json", "job.json"
KINDS = {"codes": ".npy", "labels": ".npy", "keys": ".json.gz"}  # the files of a shard
ENCODE_AGAIN = "encode the images again"

_SHARD_ROWS = 1 << 15  # 17 MB at 272 codes: little is lost with an unfinished one
_MOST_SHARDS = 512  # of which a reader keeps one file open each
_FEWEST_SHARDS = 8  # of a small source, so that several processes have work
_LEAST_IMAGES = 64
_OURS = r"(codes|labels|keys|shard)-\d+(\.npy|\.json|\.json\.gz)"
_PRODUCT = re.compile(_OURS)
_LEFTOVER = re.compile(rf"\.+({_OURS}|job\.json)(\.[A-Za-z0-9-]+\.part)+")  # of a process that was killed
_FORMAT_2 = {"pictures": "images", "shard_pictures": "shard_images"}  # keys and what they are called now


@config
class StoreHead:
    """The settings of a whole store."""

    images: int
    length: int  # T, codes per sequence
    codebook_size: int
    recipe: str  # which views of an image were encoded
    crops: tuple[str, ...]  # the name of each view, in the order of the rows
    classes: tuple[str, ...]
    tokenizer: str  # its fingerprint
    tokenizer_path: str = ""  # where it was; it may have moved since
    source: str = ""  # the data
    contents: str = ""  # its hash, as in `Splits.contents`
    split: str = ""  # which of its images: train, val or all
    image_size: int = 0  # px that were encoded
    listing: str = ""  # hash of all keys and labels, in order
    left_out: tuple[tuple[str, str], ...] = ()  # key and reason of each image that could not be used
    batch_size: int = 0  # views encoded at a time; another size may round a feature differently
    shard_images: int  # per shard; the last one may hold fewer

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.images // self.shard_images)

    def shard(self, number: int) -> range:
        """The images of a shard."""
        first = number * self.shard_images
        return range(first, min(first + self.shard_images, self.images))

    def differences(self, other: StoreHead) -> list[str]:
        """Names of the settings that decide the codes and differ."""
        names = [name for name in _DECIDES if getattr(self, name) != getattr(other, name)]
        return sorted({_DECIDES[name] for name in names if name != "listing" or self.source == other.source})


_DECIDES = {
    "images": "images",
    "listing": "images",
    "contents": "contents of the data",
    "length": "tokenizer",
    "codebook_size": "tokenizer",
    "tokenizer": "tokenizer",
    "image_size": "image size",
    "recipe": "crops",
    "crops": "crops",
    "classes": "classes",
    "source": "data",
    "split": "split",
    "batch_size": "batch size",
    "shard_images": "images per shard",
}


def shard_images(images: int, crops: int) -> int:
    """Images per shard, from the number of images and of crops alone."""
    most = max(_SHARD_ROWS, -(-images * crops // _MOST_SHARDS)) // crops
    return max(1, min(most, images, max(_LEAST_IMAGES, -(-images // _FEWEST_SHARDS))))


def crop_names(recipe: str, count: int, *, drawn: bool = False) -> tuple[str, ...]:
    """The names of the `count` views of an image, in order; a source may have no mirror images, or only the fixed view.

    `drawn`: positions are random, as from a source that has no whole images.
    """
    corners = ("top left", "top right", "bottom left", "bottom right", "centre")
    places = tuple(f"place {number}" for number in range(1, 6)) if drawn else corners
    plain = places if recipe == "ten" and count >= len(places) else ("centre",)
    names = plain + tuple(f"{name}, mirrored" for name in plain)
    assert count in (len(plain), len(names)), (recipe, count)
    return names[:count]


def as_stored(codes: np.ndarray, codebook_size: int) -> np.ndarray:
    """Codes of any integer type as uint16, checked against the size of the codebook."""
    assert not codes.size or 0 <= codes.min() <= codes.max() < codebook_size, "a code is out of range"
    return np.ascontiguousarray(codes, dtype="<u2")


class StoreWriter:
    """Writes a store; any number of processes may write shards of their own at the same time."""

    def __init__(self, path: Path, head: StoreHead) -> None:
        self.path, self.head = path, head

    def prepare(self, fresh: bool = False) -> list[int]:
        """Create the directory, or resume a store, which `fresh` deletes first; returns the unfinished shards' numbers.

        Raises:
            AlitokError: the codes cannot be stored, or the directory holds anything but this store.
        """
        if self.head.codebook_size > MAX_CODEBOOK:
            raise AlitokError(
                f"A codebook of {self.head.codebook_size:,} entries is too large to store; {MAX_CODEBOOK:,} at most."
            )
        if fresh:
            discard(self.path)
            write_json(self.path / JOB, _to_json(self.head))
        found = find_head(self.path)
        if found is None:
            with suppress(FileNotFoundError):  # another process has finished already and tidied up
                create_bytes(self.path / JOB, (json.dumps(_to_json(self.head), indent=2) + "\n").encode())
            found = find_head(self.path)  # that of another process, if one began at the same moment
            assert found is not None
        different = self.head.differences(found)
        if different:
            raise AlitokError(
                f"{self.path} holds codes of conflicting settings ({', '.join(different)}); "
                "start over with --fresh, or choose another directory with --out."
            )
        unfinished = [number for number in range(self.head.shards) if self._entry(number) is None]
        return [] if self._whole() else unfinished  # checked last: whoever finishes removes the sidecars

    def write(self, number: int, codes: np.ndarray, labels: np.ndarray, keys: Sequence[str]) -> None:
        """Write a shard, codes (rows, T) and labels (images,), then the sidecar that marks it as finished."""
        head, images = self.head, self.head.shard(number)
        assert codes.shape == (len(images) * len(head.crops), head.length), codes.shape
        assert labels.shape == (len(images),), labels.shape
        assert len(keys) == len(images)
        assert 0 <= labels.min() <= labels.max() < len(head.classes), "a label is out of range"
        if self._whole() or self._entry(number) is not None:
            return  # written by another job; finished shards are never rewritten
        entry: dict[str, Any] = {"first": images.start, "images": len(images)}
        listing = json.dumps(list(keys), separators=(",\n", ":"))  # a name may hold anything
        contents: dict[str, np.ndarray | bytes] = {
            "codes": as_stored(codes, head.codebook_size),
            "labels": labels.astype(label_type(len(head.classes))),
            "keys": gzip.compress(listing.encode(), mtime=0),
        }
        for kind, content in contents.items():
            name = f"{kind}-{number:05d}{KINDS[kind]}"
            with atomic_path(self.path / name) as part:
                with part.open("wb") as file:
                    file.write(content) if isinstance(content, bytes) else np.save(file, content)
                entry[kind] = {"file": name, "bytes": part.stat().st_size, "sha256": sha256(part)}
        write_json(self._sidecar(number), entry)

    def finish(self) -> bool:
        """Write the manifest if all shards are finished; if not, other processes have shards to write: False."""
        entries = [self._entry(number) for number in range(self.head.shards)]
        if not self._whole():
            begun = find_head(self.path)  # of the first job: others may have the tokenizer under another path
            if begun is None or None in entries:
                return False
            write_json(self.path / MANIFEST, {**_to_json(begun), "shards": entries})
        for path in list(self.path.iterdir()):
            if path.name == JOB or path.name.startswith("shard-") or _LEFTOVER.fullmatch(path.name):
                remove(path)
        return True

    def _sidecar(self, number: int) -> Path:
        return self.path / f"shard-{number:05d}.json"

    def _whole(self) -> bool:
        return (self.path / MANIFEST).exists()

    def _entry(self, number: int) -> dict[str, Any] | None:
        """The sidecar of a finished shard; None when it is not finished or a file is missing."""
        try:
            entry = _renamed(read_json(self._sidecar(number)))
            images = self.head.shard(number)
            whole = (entry["first"], entry["images"]) == (images.start, len(images))
            sizes = [(self.path / entry[kind]["file"]).stat().st_size == entry[kind]["bytes"] for kind in KINDS]
        except (AlitokError, OSError, KeyError, TypeError):
            return None
        return entry if whole and all(sizes) else None


def label_type(classes: int) -> np.dtype[Any]:
    """Type of stored labels."""
    return np.dtype("<u2" if classes <= 1 << 16 else "<i4")


def read_keys(path: Path) -> list[str]:
    """The names in a `keys` file; raises AlitokError where it is missing or damaged."""
    try:
        return json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, ValueError) as error:
        raise AlitokError(f"{path} is missing or damaged ({error}); {ENCODE_AGAIN}.") from None


def _to_json(head: StoreHead) -> dict[str, Any]:
    return {"format": FORMAT, **dataclasses.asdict(head)}


def find_head(path: Path) -> StoreHead | None:
    """The header of an unfinished or finished store at `path`; None where there is nothing yet.

    Raises:
        AlitokError: `path` is a file, holds other files, or a store that cannot be continued.
    """
    if path.exists() and not path.is_dir():
        raise AlitokError(f"{path} is a file; give a directory to write to with --out.")
    for name in (JOB, MANIFEST):  # in this order: a store that is finished meanwhile gets its manifest first
        with suppress(FileNotFoundError):
            return read_head(path, name)[0]
    if path.exists() and any(not _LEFTOVER.fullmatch(entry.name) for entry in path.iterdir()):
        raise AlitokError(f"{path} is not empty and is not a code store; give a new or empty directory with --out.")
    return None


def read_head(path: Path, name: str) -> tuple[StoreHead, list[dict[str, Any]]]:
    """The header in the manifest or the job file of a store, and the manifest's shards.

    Raises:
        AlitokError: the file is damaged or of another format.
        FileNotFoundError: it does not exist.
    """
    place = path / name
    try:
        found = read_json(place)
    except AlitokError:
        if not place.exists():
            raise FileNotFoundError(place) from None
        raise
    if not isinstance(found, dict) or found.get("format") not in (2, FORMAT):
        raise AlitokError(f"{place} is not of format {FORMAT}, but of another version of alitok; {ENCODE_AGAIN}.")
    if found.pop("format") == 2:
        found = _renamed(found)
        found["split"] = "val" if found.get("split") == "heldout" else found.get("split")
    shards = [_renamed(entry) for entry in found.pop("shards", [])]
    missing = {field.name for field in dataclasses.fields(StoreHead)} - found.keys()
    if name == MANIFEST and not shards:
        missing.add("shards")
    if missing:
        raise AlitokError(f"{place} is damaged: it lacks {', '.join(sorted(missing))}; {ENCODE_AGAIN}.")
    try:
        return from_dict(StoreHead, found, name), shards
    except AlitokError as error:
        raise AlitokError(f"{place} is damaged ({error}); {ENCODE_AGAIN}.") from None


def _renamed(entry: dict[str, Any]) -> dict[str, Any]:
    """Keys of format 2 as they are called now."""
    return {_FORMAT_2.get(key, key): value for key, value in entry.items()}


def require_store(path: Path) -> None:
    """Raise AlitokError unless what is at `path`, if anything, is a store of any format, which may be deleted."""
    for name in (MANIFEST, JOB) if path.is_dir() else ():
        with suppress(AlitokError):
            found = read_json(path / name)
            if isinstance(found, dict) and {"format", "codebook_size"} <= found.keys():
                return
    find_head(path)  # raises the error that describes it


def discard(path: Path) -> None:
    """Delete the store at `path`, finished or not, of any format; AlitokError where it is something else.

    Other files stay, and its job file until another is written over it: an interrupted removal leaves an unfinished
    store, not a directory of unknown files.
    """
    require_store(path)
    if (path / MANIFEST).exists():
        (path / MANIFEST).replace(path / JOB)
    for entry in list(path.iterdir()) if path.exists() else []:
        if _PRODUCT.fullmatch(entry.name) or _LEFTOVER.fullmatch(entry.name):
            remove(entry)
