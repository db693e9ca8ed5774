"""Hugging Face data sets: by name from the hub, from parquet or arrow files, or as `save_to_disk` wrote them.

They are memory-mapped tables. With streaming, the stream is written to tar archives in the cache once and read from
there; each archive is saved with the state of the stream after it, so an interrupted run resumes there.
"""

from __future__ import annotations

import glob
import io
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from alitok.core.console import Reporter
from alitok.core.errors import AlitokError, error_text
from alitok.core.files import atomic_path, read_json, write_json
from alitok.data.sources.archive import Shard, open_archives
from alitok.data.sources.cache import Cache
from alitok.data.sources.images import TRAIN, EncodedImages, val_name
from alitok.data.sources.patterns import is_on, require_options
from alitok.data.sources.table import Columns, encoded_image, find_columns, from_tables, without_decoding

PREFIX = "hf:"
TABLES = (".parquet", ".arrow")
_MOST_QUOTED = 300  # characters of a library's error
_SHARD_BYTES = 1 << 28
_STATE = "state.json"
_ENDINGS = {b"\x89PNG": "png", b"GIF8": "gif", b"RIFF": "webp", b"II*\0": "tif", b"MM\0*": "tif", b"BM": "bmp"}


def open_hub(source: str, options: Mapping[str, str], cache: Cache, log: Reporter | None = None) -> EncodedImages:
    """A data set of the hub, named `owner/name`; AlitokError where it, its splits or its columns cannot be used."""
    datasets, name, config = _library(), source.removeprefix(PREFIX), options.get("config")
    with _readable_errors(name):
        splits = list(datasets.get_dataset_split_names(name, config))
    chosen = _choose_splits(name, splits, options)

    def load(split: str, streaming: bool) -> Any:
        return datasets.load_dataset(name, config, split=split, streaming=streaming)

    return _open(name, (name, config), chosen, load, options, cache, log)


def open_tables(
    name: str,
    train: Sequence[Path],
    val: Sequence[Path] | None,
    options: Mapping[str, str],
    cache: Cache,
    log: Reporter | None = None,
) -> EncodedImages:
    """Parquet or arrow files, `val` for validation; AlitokError where they or their columns cannot be used."""
    datasets = _library()
    files = {TRAIN: train} | ({"val": val} if val else {})
    kinds = {path.suffix.lower().removeprefix(".") for paths in files.values() for path in paths}
    if len(kinds) > 1:
        raise AlitokError(f"{name} has parquet and arrow files; give those of one kind.")
    data_files = {split: [glob.escape(str(path)) for path in paths] for split, paths in files.items()}  # it globs

    def load(split: str, streaming: bool) -> Any:
        folder = str(cache.root / "datasets")
        return datasets.load_dataset(*kinds, data_files=data_files, split=split, streaming=streaming, cache_dir=folder)

    identity = [(path, path.stat().st_size, path.stat().st_mtime_ns) for paths in files.values() for path in paths]
    return _open(name, identity, list(files), load, options, cache, log)


def open_saved(folder: Path, options: Mapping[str, str]) -> EncodedImages:
    """What `save_to_disk` wrote; AlitokError where it, its splits or its columns cannot be used."""
    datasets = _library()
    with _readable_errors(str(folder)):
        saved = datasets.load_from_disk(str(folder))
    if not isinstance(saved, dict):
        require_options(str(folder), options, "image", "label")
        return from_tables(folder.name, {str(saved.split or TRAIN): saved}, options)
    chosen = _choose_splits(folder.name, list(saved), options)
    return from_tables(folder.name, {split: saved[split] for split in chosen}, options)


def _library() -> Any:
    try:
        import datasets
    except ImportError:
        raise AlitokError("To read Hugging Face data sets, run: pip install 'alitok[datasets]'.") from None
    return datasets


@contextmanager
def _readable_errors(name: str) -> Iterator[None]:
    """Any error of `datasets` becomes one sentence."""
    try:
        yield
    except AlitokError:
        raise
    except Exception as error:  # missing, private, offline, damaged: each has its own types
        why = error_text(error, whole=True)[:_MOST_QUOTED].rstrip(".")
        raise AlitokError(f"{name} cannot be loaded: {why}; check the name, the options and the network.") from None


def _choose_splits(name: str, splits: Sequence[str], options: Mapping[str, str]) -> list[str]:
    """The split for training and, where there is one, the split for validation."""
    train = options.get("split", TRAIN if TRAIN in splits or len(splits) != 1 else splits[0])
    val = options.get("val") or (val_name(splits) if train == TRAIN else None)
    chosen = [train] if val is None else [train, val]
    for split in chosen:
        if split.partition("[")[0] not in splits:  # a slice, as in train[:10%], is allowed
            raise AlitokError(f"{name} has no split {split!r}; add ?split=NAME, one of: {', '.join(splits)}.")
    return chosen


def _open(
    name: str,
    identity: object,
    splits: Sequence[str],
    load: Callable[[str, bool], Any],
    options: Mapping[str, str],
    cache: Cache,
    log: Reporter | None,
) -> EncodedImages:
    """Images of splits, training first; `identity` distinguishes a streamed data set from others in the cache."""
    streaming = is_on("streaming", options.get("streaming", "0"))

    def loaded(split: str) -> Any:
        with _readable_errors(name):
            return load(split, streaming)

    if not streaming:
        return from_tables(name, {split: loaded(split) for split in splits}, options)
    columns = None
    shards = []
    for split in splits:
        chosen = sorted((key, options[key]) for key in ("image", "label") if key in options)
        folder = cache.folder("streams", identity, split, chosen)
        with cache.lock(folder):
            written = _Written.load(folder)
            if written is None or not written.done:
                stream = loaded(split)
                if stream.features is None:
                    stream = stream._resolve_features()  # of the first rows
                found = find_columns(stream.features, options, name)
                written = written or _Written(folder, found)
                _write(stream, written, f"Split {split} of {name}", cache.limit, log)
        columns = columns or written.columns
        shards.append([Shard(f"{split}-{path.name}", path, cache) for path in written.shards])
    assert columns is not None
    images = open_archives(name, shards[0], shards[1] if len(shards) > 1 else None, classes=columns.names, log=log)
    images.notes = columns.notes(name, images.classes)
    return images


@dataclass
class _Written:
    """What of a stream is in archives."""

    folder: Path
    columns: Columns
    count: int = 0  # archives
    rows: int = 0
    done: bool = False
    stream: Any = None  # its own state after the last archive

    @property
    def shards(self) -> list[Path]:
        return [self.path(number) for number in range(self.count)]

    def path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.tar"

    @classmethod
    def load(cls, folder: Path) -> _Written | None:
        if not (folder / _STATE).exists():
            return None
        state = read_json(folder / _STATE)
        image, label, names = state.pop("columns")
        written = cls(folder, Columns(image, label, tuple(names) if names else None), **state)
        return written if all(path.is_file() for path in written.shards) else None

    def save(self) -> None:
        state = vars(self) | {"columns": astuple(self.columns)}
        del state["folder"]
        write_json(self.folder / _STATE, state)


def _write(stream: Any, written: _Written, name: str, limit: int, log: Reporter | None) -> None:
    """Write the rest of the stream, archive by archive."""
    columns = written.columns
    stream = without_decoding(stream, columns.image)
    stream = stream.select_columns([column for column in (columns.image, columns.label) if column is not None])
    if written.stream is not None:
        stream.load_state_dict(written.stream)
    rows = iter(stream)
    while not written.done:
        try:
            with atomic_path(written.path(written.count)) as part:
                added, done = _write_shard(part, rows, columns, written.rows)
        except AlitokError:
            raise
        except Exception as error:  # whatever the network or the library raises
            why = error_text(error, whole=True).rstrip(".")
            raise AlitokError(f"{name} broke off: {why}. Run it again to resume at row {written.rows:,}.") from None
        written.count, written.rows, written.done = written.count + 1, written.rows + added, done
        written.stream = stream.state_dict()
        written.save()
        if sum(path.stat().st_size for path in written.shards) > limit:
            raise AlitokError(f"{name} exceeds the {limit / 1e9:.2f} GB of the cache; allow more in ALITOK_CACHE_GB.")
        if log is not None:
            log(f"{written.rows:,} rows of {name} read")


def _write_shard(part: Path, rows: Iterator[Any], columns: Columns, start: int) -> tuple[int, bool]:
    """Write rows until the archive is large enough; returns how many, and whether the stream has ended."""
    with tarfile.open(part, "w") as archive:

        def add(name: str, content: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))

        for added, row in enumerate(rows, start=1):
            try:
                encoded = encoded_image(row[columns.image])
            except FileNotFoundError:
                encoded = b""  # reported when images are checked
            stem = f"{start + added - 1:09d}"
            # a usual ending, for people; decoding ignores it
            ending = next((ending for first, ending in _ENDINGS.items() if encoded.startswith(first)), "jpg")
            add(f"{stem}.{ending}", encoded)
            label = columns.class_of(row[columns.label]) if columns.label is not None else None
            if label is not None:
                add(f"{stem}.cls", label.encode())
            if archive.offset >= _SHARD_BYTES:
                return added, False
        return added if archive.offset else 0, True
