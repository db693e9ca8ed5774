"""Hugging Face data sets: by name from the hub, from parquet or arrow files, or as `save_to_disk` wrote them.

Enters: a name, or paths, with options. Leaves: images in memory-mapped tables; or, with streaming, in tar archives
that the stream was written to once.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alitok.core.console import Reporter
from alitok.core.errors import AlitokError, error_text
from alitok.data.sources.cache import Cache
from alitok.data.sources.images import TRAIN, EncodedImages, val_names
from alitok.data.sources.patterns import is_on, require_options
from alitok.data.sources.stream import open_stream
from alitok.data.sources.table import from_tables

PREFIX = "hf:"
TABLES = (".parquet", ".arrow")
_MOST_SAID = 300  # letters of what a library says


@contextmanager
def told(name: str) -> Iterator[None]:
    """Whatever `datasets` raises becomes one sentence."""
    try:
        yield
    except AlitokError:
        raise
    except Exception as error:  # missing, private, offline, damaged: each has kinds of its own
        why = error_text(error, whole=True)[:_MOST_SAID].rstrip(".")
        raise AlitokError(f"{name} cannot be loaded: {why}; check the name, the options and the network.") from None


def library() -> Any:
    """The package `datasets`.

    Raises:
        AlitokError: it is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise AlitokError("To read Hugging Face data sets, run: pip install 'alitok[datasets]'.") from None
    return datasets


def open_hub(source: str, options: Mapping[str, str], cache: Cache, log: Reporter | None = None) -> EncodedImages:
    """A data set of the hub, named `owner/name`.

    Raises:
        AlitokError: it cannot be loaded, or it is not clear which split or column is meant.
    """
    datasets, name, config = library(), source.removeprefix(PREFIX), options.get("config")
    with told(name):
        splits = list(datasets.get_dataset_split_names(name, config))
    parts = choose_splits(name, splits, options)

    def load(split: str) -> Any:
        with told(name):
            return datasets.load_dataset(name, config, split=split, streaming=_streaming(options))

    return _open(name, (name, config), parts, load, options, cache, log)


def open_tables(
    name: str,
    train: Sequence[Path],
    val: Sequence[Path] | None,
    options: Mapping[str, str],
    cache: Cache,
    log: Reporter | None = None,
) -> EncodedImages:
    """Parquet or arrow files; `val` holds the files of validation images where the split is given.

    Raises:
        AlitokError: they cannot be read, or it is not clear which column is meant.
    """
    datasets = library()
    files = {TRAIN: train} | ({"val": val} if val else {})
    kinds = {path.suffix.lower().removeprefix(".") for paths in files.values() for path in paths}
    if len(kinds) > 1:
        raise AlitokError(f"{name} has parquet and arrow files; give those of one kind.")
    data_files = {split: [glob.escape(str(path)) for path in paths] for split, paths in files.items()}  # it globs
    streaming = _streaming(options)

    def load(split: str) -> Any:
        with told(name):
            return datasets.load_dataset(
                next(iter(kinds)),
                data_files=data_files,
                split=split,
                streaming=streaming,
                cache_dir=str(cache.root / "datasets"),
            )

    identity = [(path, path.stat().st_size, path.stat().st_mtime_ns) for paths in files.values() for path in paths]
    return _open(name, identity, list(files), load, options, cache, log)


def open_saved(folder: Path, options: Mapping[str, str]) -> EncodedImages:
    """What `save_to_disk` wrote: one data set, or several splits.

    Raises:
        AlitokError: it cannot be read, or it is not clear which split or column is meant.
    """
    with told(str(folder)):
        saved = library().load_from_disk(str(folder))
    if not isinstance(saved, dict):
        require_options(str(folder), options, "image", "label")
        return from_tables(folder.name, {str(saved.split or TRAIN): saved}, options)
    parts = choose_splits(folder.name, list(saved), options)
    return from_tables(folder.name, {split: saved[split] for split in parts}, options)


def choose_splits(name: str, splits: Sequence[str], options: Mapping[str, str]) -> list[str]:
    """The split for training and, where there is one, the split that is held out.

    Raises:
        AlitokError: it is not clear which is meant, or there is none of that name.
    """
    train = options.get("split", TRAIN if TRAIN in splits or len(splits) != 1 else splits[0])
    val = options.get("val") or (val_names(splits) if train == TRAIN else None)
    for split in filter(None, (train, val)):
        if split.partition("[")[0] not in splits:  # a slice, as in train[:10%], is allowed
            raise AlitokError(f"{name} has no split {split!r}; add ?split=NAME, one of: {', '.join(splits)}.")
    return [train] if val is None else [train, val]


def _streaming(options: Mapping[str, str]) -> bool:
    return is_on("streaming", options.get("streaming", "0"))


def _open(
    name: str,
    identity: object,
    splits: Sequence[str],
    load: Callable[[str], Any],
    options: Mapping[str, str],
    cache: Cache,
    log: Reporter | None,
) -> EncodedImages:
    if _streaming(options):
        return open_stream(name, identity, splits, load, options, cache, log)
    return from_tables(name, {split: load(split) for split in splits}, options)
