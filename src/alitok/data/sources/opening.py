"""Opens any data set by what the user wrote: the name of a built-in set, a path, a pattern, a URL or a hub name.

    digits, photos                    images that come with libraries
    FOLDER                            one folder per class, images at any depth below it
                                      or: images and a file that labels them, see `labels_file`
                                      or: images only, which are one class
                                      or: train/ and one of val/, valid/, validation/, test/, each of these forms
    labels.csv, .json, .jsonl         a labels file itself; paths in it are relative to its own folder
    x.tar, shards/*.tar,              tar archives, as WebDataset writes them or with one folder per class
    train-{000..012}.tar, FOLDER      a folder of archives
    https://.../{000..012}.tar,       remote archives, fetched into the cache when their images are needed;
    s3://...                          any URL that fsspec knows
    x.parquet, x.arrow, FOLDER        Hugging Face tables, one or several, or what `save_to_disk` wrote
    hf:owner/name                     a data set of the Hugging Face hub

A split that the data brings is used: folders, files or splits called train and val (or valid, validation, test).
Otherwise a tenth of each class is drawn for validation, by the seed. Options follow a question mark, as in
`hf:owner/name?label=kind&streaming=1`:

    val=        the archives, files or split of validation images
    split=      the split for training, of a data set that has several
    image=      the column of images, and label= that of classes, where they are ambiguous
    config=     which of its configurations, of a data set of the hub
    streaming=1 write the stream to archives in the cache, once, instead of loading the whole data set
    mirror=0    of any of these but the built-in sets: a mirrored image does not belong to its class
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from alitok.core.console import Reporter
from alitok.core.errors import AlitokError
from alitok.data.sources.archive import Shard, open_archives
from alitok.data.sources.builtin import BUILTIN
from alitok.data.sources.cache import open_cache
from alitok.data.sources.folder import images_below, open_folder, open_labels
from alitok.data.sources.hub import PREFIX, TABLES, open_hub, open_saved, open_tables
from alitok.data.sources.images import EncodedImages
from alitok.data.sources.labels_file import LABEL_SUFFIXES
from alitok.data.sources.patterns import (
    OPTIONS,
    divide,
    expand_braces,
    expand_paths,
    is_on,
    is_pattern,
    is_url,
    read_options,
    require_options,
    with_options,
)
from alitok.data.split import Splits, split_images


def open_splits(data: str, size: int, seed: int = 0, log: Reporter | None = None) -> Splits:
    """List the images of a data set, in any of the forms above, without reading them; `size` in px of their squares.

    `seed` draws the validation images, unless the data brings a split.

    Raises:
        AlitokError: there is no such data set, or its images cannot be used.
    """
    if data in BUILTIN:
        return Splits(*BUILTIN[data].open(size, seed), data, data)
    return split_images(open_images(data, log), full_name(data), size, seed, allows_flip(data))


def open_images(data: str, log: Reporter | None = None) -> EncodedImages:
    """List the images of anything but the built-in sets; AlitokError where they cannot be listed."""
    if not data:
        raise AlitokError("The name of the data is empty; give digits, photos or a folder.")
    name, options = _with_options(data)
    if name in BUILTIN:
        require_options(name, options)
    is_on("mirror", options.pop("mirror", "1"))  # checked before hours of reading; `allows_flip` returns it
    if name.startswith(PREFIX):
        require_options(name, options, *OPTIONS)
        return open_hub(name, options, open_cache(), log)
    if is_url(name):
        return _open_archives(name, options, log)
    path = _absolute(name)
    if path.is_dir():
        return _open_directory(path, options, log)
    suffix = path.suffix.lower()
    if suffix in (".tar", *TABLES) and (path.is_file() or is_pattern(name)):
        return (_open_archives if suffix == ".tar" else _open_tables)(name, options, log)
    if suffix in LABEL_SUFFIXES and path.is_file():
        require_options(name, options, "mirror")
        return open_labels(path)
    raise _unknown(data, name, path)


def full_name(data: str) -> str:
    """The same data with absolute paths, which opens it from any working directory."""
    name, options = with_options(data)
    if name in BUILTIN or name.startswith(PREFIX) or is_url(name):
        return data
    path = _absolute(name)
    files = path.suffix.lower() in (".tar", *TABLES) or (path.is_dir() and not _is_saved(path))
    if files and not is_url(options.get("val", "x://")):
        options["val"] = str(_absolute(options["val"]))  # of a saved data set it is a split
    return str(path) + "?" * bool(options) + "&".join(f"{key}={value}" for key, value in options.items())


def allows_flip(data: str) -> bool:
    """Whether a mirrored image still belongs to its class; false with `mirror=0`. AlitokError for other than 1 or 0."""
    return is_on("mirror", _with_options(data)[1].get("mirror", "1"))


def _with_options(data: str) -> tuple[str, dict[str, str]]:
    if not data.startswith(PREFIX):
        return with_options(data)
    name, _, text = data.partition("?")
    return name, read_options(data, text)


def _absolute(path: str) -> Path:
    return Path(path).expanduser().resolve()


def _is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote it."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _unknown(data: str, name: str, path: Path) -> AlitokError:
    bare, misspelt = with_options(data, "[a-z_]+")
    if misspelt and (bare in BUILTIN or Path(bare).expanduser().exists()):
        require_options(bare, misspelt, *(() if bare in BUILTIN else OPTIONS))
    if path.exists() or is_pattern(name):
        return AlitokError(
            f"{name} is not a source of images; give a folder, a labels file, tar archives, or parquet or arrow files."
        )
    return AlitokError(
        f"Data {name!r}: the path does not exist, and the built-in sets are {' and '.join(BUILTIN)}; "
        "check the path or choose one of them."
    )


def _open_directory(path: Path, options: Mapping[str, str], log: Reporter | None) -> EncodedImages:
    if _is_saved(path):
        require_options(str(path), options, "split", "val", "image", "label", "mirror")
        return open_saved(path, options)
    packed = _packed(path)
    if packed is None:
        require_options(str(path), options, "mirror")
        return open_folder(path)
    example, pattern, opener = packed
    loose = images_below(path)
    if not options and example.parent == path and any("/" in image for image in loose):
        folders = open_folder(path)
        note = (
            f"Using the image folders in {path}, not the files beside them, such as {example.name}; to read those "
            f"instead, give {path / pattern}."
        )
        return replace(folders, notes=(*folders.notes, note))
    images = opener(f"{path}/{pattern}", options, log, path.name)
    if loose:
        note = f"{len(loose):,} images in {path} that are in none of its {pattern} are not used, such as {loose[0]}."
        images.notes = (*images.notes, note)
    return images


def _packed(path: Path) -> tuple[Path, str, Callable[..., EncodedImages]] | None:
    """Of the archives or tables in a folder: one of them, the pattern of all below the folder, and their opener."""
    for suffix, opener in ((".tar", _open_archives), *((suffix, _open_tables) for suffix in TABLES)):
        for pattern in (f"*{suffix}", f"data/*{suffix}"):  # in data/, as in hub repositories
            files = [file for file in path.glob(pattern) if file.is_file() and not file.name.startswith(".")]
            if files:
                return min(files), pattern, opener
    return None


def _open_tables(
    pattern: str, options: Mapping[str, str], log: Reporter | None, name: str | None = None
) -> EncodedImages:
    require_options(pattern, options, "val", "image", "label", "streaming", "mirror")
    train, val, notes = _files(pattern, options, TABLES)
    name = name or (train[0].stem if len(train) == 1 else f"{len(train):,} files from {train[0].name}")
    images = open_tables(name, train, val, options, open_cache(), log)
    images.notes = (*notes, *images.notes)
    return images


def _open_archives(
    pattern: str, options: Mapping[str, str], log: Reporter | None, name: str | None = None
) -> EncodedImages:
    require_options(pattern, options, "val", "mirror")
    cache, notes = open_cache(), tuple[str, ...]()
    train: Sequence[str | Path]
    val: Sequence[str | Path] | None
    if is_url(pattern):
        train = expand_braces(pattern)
        val = expand_braces(options["val"]) if "val" in options else None
    else:
        train, val, notes = _files(pattern, options, (".tar",))
    places = [*train, *(val or ())]
    names = _distinct(places)
    shards = [Shard(each, place, cache) for each, place in zip(names, places, strict=True)]
    name = name or (names[0] if len(names) == 1 else f"{len(names):,} archives from {names[0]}")
    first = Path(places[0].partition("?")[0]) if isinstance(places[0], str) else places[0]
    return open_archives(
        name,
        shards[: len(train)],
        None if val is None else shards[len(train) :],
        notes=notes,
        only_class=first.stem if len(places) == 1 else first.parent.name or name,
        log=log,
    )


def _files(
    pattern: str, options: Mapping[str, str], suffixes: tuple[str, ...]
) -> tuple[list[Path], list[Path] | None, tuple[str, ...]]:
    """The files of a pattern for training and for validation, and notes on the others."""
    found = [expand_paths(each) for each in (pattern, options.get("val")) if each is not None]
    for path in (path for paths in found for path in paths):
        if path.suffix.lower() not in suffixes or not path.is_file():
            raise AlitokError(f"{path} is not a file that ends in {' or '.join(suffixes)}.")
    return divide(found[0]) if len(found) == 1 else (found[0], found[1], ())


def _distinct(places: Sequence[str | Path]) -> list[str]:
    """Short names for keys: the last part, or all of it where that would not be unique."""
    texts = [place if isinstance(place, str) else place.as_posix() for place in places]
    short = [(text.partition("?")[0] if is_url(text) else text).rpartition("/")[2] for text in texts]
    return short if len(set(short)) == len(short) else texts
