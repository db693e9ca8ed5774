"""What the user wrote, to images: every form that `source` lists except the built-in sets.

Enters: a folder, a file, a pattern, an address or the name of a data set. Leaves: `Images`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from alitok.core.errors import AlitokError
from alitok.data.builtin import BUILTIN
from alitok.data.cache import open_cache
from alitok.data.folder import images_below, open_folder, open_labels
from alitok.data.hub import PREFIX, TABLES, open_hub, open_saved, open_tables
from alitok.data.images import Images
from alitok.data.labelled import LABEL_SUFFIXES
from alitok.data.patterns import (
    OPTIONS,
    any_options,
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
from alitok.data.tar import FetchedShard, LocalShard, Say, open_tars


def full_name(data: str) -> str:
    """What opens the same data from any folder: paths in full."""
    name, options = with_options(data)
    if name in BUILTIN or name.startswith(PREFIX) or is_url(name):
        return data
    path = Path(_in_full(name))
    files = path.suffix.lower() in (".tar", *TABLES) or (path.is_dir() and not _is_saved(path))
    if files and not is_url(options.get("val", "x://")):
        options["val"] = _in_full(options["val"])  # of a saved data set it is a split
    return str(path) + "?" * bool(options) + "&".join(f"{key}={value}" for key, value in options.items())


def _in_full(path: str) -> str:
    return str(Path(path).expanduser().resolve())


def _is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote it."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def may_be_mirrored(data: str) -> bool:
    """Whether a mirrored image is still one of its class; the option `mirror=0` says that it is not.

    Raises:
        AlitokError: the option is neither 1 nor 0.
    """
    return is_on("mirror", _parted(data)[1].get("mirror", "1"))


def _parted(data: str) -> tuple[str, dict[str, str]]:
    """A name and the options behind it."""
    if not data.startswith(PREFIX):
        return with_options(data)
    name, _, text = data.partition("?")
    return name, read_options(data, text)


def open_images(data: str, say: Say | None = None) -> Images:
    """List the images of anything but the built-in sets.

    Args:
        data: what the user wrote.
        say: told what takes long, as when archives are fetched.

    Raises:
        AlitokError: there is no such data set, or it cannot be listed.
    """
    if not data:
        raise AlitokError("The name of the data is empty; give digits, photos or a folder.")
    name, options = _parted(data)
    if name in BUILTIN:
        require_options(name, options)
    is_on("mirror", options.pop("mirror", "1"))  # says nothing of files; what it is not is told before hours of reading
    if name.startswith(PREFIX):
        require_options(name, options, *OPTIONS)
        return open_hub(name, options, open_cache(), say)
    if is_url(name):
        return _open_archives(name, options, say)
    path = Path(name).expanduser().resolve()
    if path.is_dir():
        return _open_directory(path, options, say)
    suffix = path.suffix.lower()
    if suffix in (".tar", *TABLES) and (path.is_file() or is_pattern(name)):
        return (_open_archives if suffix == ".tar" else _open_tables)(name, options, say)
    if suffix in LABEL_SUFFIXES and path.is_file():
        require_options(name, options, "mirror")
        return open_labels(path)
    raise _nothing(data, name, path)


def _nothing(data: str, name: str, path: Path) -> AlitokError:
    """Why what the user wrote names no images."""
    guessed, misspelt = any_options(data)
    if misspelt and (guessed in BUILTIN or Path(guessed).expanduser().exists()):
        require_options(guessed, misspelt, *(() if guessed in BUILTIN else OPTIONS))
    if path.exists() or is_pattern(name):
        return AlitokError(
            f"{name} is no source of images; give a folder, a labels file, tar archives, or parquet or arrow files."
        )
    return AlitokError(
        f"Data {name!r}: the path does not exist, and the built-in sets are {' and '.join(BUILTIN)}; "
        "check the path or choose one of them."
    )


def _open_directory(path: Path, options: Mapping[str, str], say: Say | None) -> Images:
    if _is_saved(path):
        require_options(str(path), options, "split", "val", "image", "label", "mirror")
        return open_saved(path, options)
    packed = _packed(path)
    if packed is None:
        require_options(str(path), options, "mirror")
        return open_folder(path)
    example, pattern, opener = packed
    beside = images_below(path)
    if not options and example.parent == path and any("/" in image for image in beside):
        folders = open_folder(path)
        return replace(
            folders,
            notes=(
                *folders.notes,
                f"The folders of images in {path} are used and not the files beside them, such as {example.name}; to "
                f"read those instead, give {path / pattern}.",
            ),
        )
    images = opener(f"{path}/{pattern}", options, say, path.name)
    if beside:
        note = f"{len(beside):,} images in {path} that are in none of its {pattern} are not used, such as {beside[0]}."
        images.notes = (*images.notes, note)
    return images


def _packed(path: Path) -> tuple[Path, str, Callable[..., Images]] | None:
    """Of the archives or tables in a folder: one of them, the pattern of all below the folder, and what opens them."""
    for suffix, opener in ((".tar", _open_archives), *((suffix, _open_tables) for suffix in TABLES)):
        for pattern in (f"*{suffix}", f"data/*{suffix}"):  # in data/, as hub repositories have them
            files = [file for file in path.glob(pattern) if file.is_file() and not file.name.startswith(".")]
            if files:
                return min(files), pattern, opener
    return None


def _open_tables(pattern: str, options: Mapping[str, str], say: Say | None, name: str | None = None) -> Images:
    require_options(pattern, options, "val", "image", "label", "streaming", "mirror")
    train, val, notes = _files(pattern, options, TABLES)
    name = name or (train[0].stem if len(train) == 1 else f"{len(train):,} files from {train[0].name}")
    images = open_tables(name, train, val, options, open_cache(), say)
    images.notes = (*notes, *images.notes)
    return images


def _files(
    pattern: str, options: Mapping[str, str], suffixes: tuple[str, ...]
) -> tuple[list[Path], list[Path] | None, tuple[str, ...]]:
    """The files of a pattern: those for training, those held out, and what is to be said of others."""
    found = [_checked(expand_paths(each), suffixes) for each in (pattern, options.get("val")) if each is not None]
    return divide(found[0]) if len(found) == 1 else (found[0], found[1], ())


def _checked(paths: list[Path], suffixes: tuple[str, ...]) -> list[Path]:
    for path in paths:
        if path.suffix.lower() not in suffixes or not path.is_file():
            raise AlitokError(f"{path} is no file that ends in {' or '.join(suffixes)}.")
    return paths


def _open_archives(pattern: str, options: Mapping[str, str], say: Say | None, name: str | None = None) -> Images:
    require_options(pattern, options, "val", "mirror")
    cache, notes = open_cache(), tuple[str, ...]()
    train: list[str] | list[Path]
    val: list[str] | list[Path] | None
    if is_url(pattern):
        train = expand_braces(pattern)
        val = expand_braces(options["val"]) if "val" in options else None
    else:
        train, val, notes = _files(pattern, options, (".tar",))
    places: list[str | Path] = [*train, *(val or ())]
    names = _distinct(places)
    shards = [
        FetchedShard(each, place, cache) if isinstance(place, str) else LocalShard(each, place)
        for each, place in zip(names, places, strict=True)
    ]
    name = name or (names[0] if len(names) == 1 else f"{len(names):,} archives from {names[0]}")
    held = None if val is None else shards[len(train) :]
    first = Path(places[0].partition("?")[0]) if isinstance(places[0], str) else places[0]
    only_class = first.stem if len(places) == 1 else first.parent.name or name
    return open_tars(name, shards[: len(train)], held, cache=cache, notes=notes, only_class=only_class, say=say)


def _distinct(places: Sequence[str | Path]) -> list[str]:
    """Short names for keys: the last part, or all of it where that would not be unique."""
    texts = [place if isinstance(place, str) else place.as_posix() for place in places]
    short = [(text.partition("?")[0] if is_url(text) else text).rpartition("/")[2] for text in texts]
    return short if len(set(short)) == len(short) else texts
