"""Streamed data sets, written to tar archives in the cache once and read from there.

Each archive is saved with the state of the stream after it, so an interrupted run resumes there.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alitok.core.console import Reporter
from alitok.core.errors import AlitokError, error_text
from alitok.core.files import atomic_path, read_json, write_json
from alitok.data.sources.archive import ArchiveImages, LocalShard, open_archives
from alitok.data.sources.cache import Cache
from alitok.data.sources.table import Columns, find_columns, kind_of, notes_on

_SHARD_BYTES = 1 << 28
_STATE = "state.json"
_ENDINGS = {b"\x89PNG": "png", b"GIF8": "gif", b"RIFF": "webp", b"II*\0": "tif", b"MM\0*": "tif", b"BM": "bmp"}


def open_stream(
    name: str,
    identity: object,
    splits: Sequence[str],
    load: Callable[[str], Any],
    options: Mapping[str, str],
    cache: Cache,
    log: Reporter | None = None,
) -> ArchiveImages:
    """Images of streamed splits, training first and then, where there is one, what is held out.

    Args:
        name: of the data set.
        identity: what tells it from others in the cache.
        splits: their names.
        load: opens the stream of a split.
        options: of the source.
        cache: where the archives are kept.
        log: told how many images have come.

    Raises:
        AlitokError: a stream breaks off, or does not fit the cache.
    """
    columns = None
    shards = []
    for split in splits:
        chosen = sorted((key, options[key]) for key in ("image", "label") if key in options)
        folder = cache.folder("streams", identity, split, chosen)
        with cache.alone(folder):
            written = _Written.of(folder)
            if written is None or not written.done:
                stream = load(split)
                if stream.features is None:
                    stream = stream._resolve_features()  # of the first rows
                found = find_columns(stream.features, options, name)
                written = _write(stream, found, folder, written, f"Split {split} of {name}", cache.limit, log)
        columns = columns or written.columns
        shards.append([LocalShard(f"{split}-{path.name}", path) for path in written.shards])
    assert columns is not None
    images = open_archives(
        name, shards[0], shards[1] if len(shards) > 1 else None, cache=cache, classes=columns.names, log=log
    )
    images.notes = notes_on(name, columns, images.classes)
    return images


@dataclass
class _Written:
    """What of a stream is in archives."""

    folder: Path
    columns: Columns
    count: int = 0  # archives
    rows: int = 0
    done: bool = False
    stream: Any = None  # its own state behind the last archive

    @property
    def shards(self) -> list[Path]:
        return [self.path(number) for number in range(self.count)]

    def path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.tar"

    @classmethod
    def of(cls, folder: Path) -> _Written | None:
        if not (folder / _STATE).exists():
            return None
        state = read_json(folder / _STATE)
        image, label, names = state.pop("columns")
        written = cls(folder, Columns(image, label, tuple(names) if names else None), **state)
        return written if all(path.is_file() for path in written.shards) else None

    def save(self) -> None:
        columns = (self.columns.image, self.columns.label, self.columns.names)
        state = {"columns": columns, "count": self.count, "rows": self.rows, "done": self.done, "stream": self.stream}
        write_json(self.folder / _STATE, state)


def _write(
    stream: Any, columns: Columns, folder: Path, written: _Written | None, name: str, limit: int, log: Reporter | None
) -> _Written:
    """Write what is not written yet, archive by archive."""
    if kind_of(stream.features[columns.image]) == "Image":
        import datasets

        stream = stream.cast_column(columns.image, datasets.Image(decode=False))  # a broken one would end the stream
    stream = stream.select_columns([column for column in (columns.image, columns.label) if column is not None])
    if written is None:
        written = _Written(folder, columns)
    elif written.stream is not None:
        stream.load_state_dict(written.stream)
    rows = iter(stream)
    while not written.done:
        try:
            with atomic_path(written.path(written.count)) as part:
                came, done = _write_shard(part, rows, columns, written.rows)
        except AlitokError:
            raise
        except Exception as error:  # whatever the network or the library raises
            why = error_text(error, whole=True)
            raise AlitokError(f"{name} broke off: {why}. Start again to go on from row {written.rows:,}.") from None
        written.count, written.rows, written.done = written.count + 1, written.rows + came, done
        written.stream = stream.state_dict()
        written.save()
        if sum(path.stat().st_size for path in written.shards) > limit:
            raise AlitokError(
                f"{name} takes more than the {limit / 1e9:.2f} GB of the cache; allow more in ALITOK_CACHE_GB."
            )
        if log is not None:
            log(f"{written.rows:,} rows of {name} read")
    return written


def _write_shard(part: Path, rows: Iterator[Any], columns: Columns, start: int) -> tuple[int, bool]:
    """Write rows until the archive is large enough; how many, and whether the stream has ended."""
    with tarfile.open(part, "w") as archive:
        for came, row in enumerate(rows):
            encoded = _encoded(row[columns.image])
            _add(archive, f"{start + came:09d}.{_ending(encoded)}", encoded)
            label = columns.class_of(row[columns.label]) if columns.label is not None else None
            if label is not None:
                _add(archive, f"{start + came:09d}.cls", label.encode())
            if archive.offset >= _SHARD_BYTES:
                return came + 1, False
        return came + 1 if archive.offset else 0, True


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _encoded(value: Any) -> bytes:
    """The image of a row; empty where it has none, which is told when images are checked."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if not isinstance(value, str):
        return value or b""
    import fsspec

    try:
        with fsspec.open(value, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def _ending(encoded: bytes) -> str:
    """A usual ending, for people; decoding goes by the content."""
    return next((ending for start, ending in _ENDINGS.items() if encoded.startswith(start)), "jpg")
