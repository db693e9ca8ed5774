"""The cache folder of remote data: fetched archives, and the indexes of all archives.

`ALITOK_CACHE` names the folder, `ALITOK_CACHE_GB` limits the size of fetched archives:

    shards/     fetched archives; the least recently used ones are evicted first, never one that any process has open
    indexes/    where the images of an archive are, so that a start does not read all archives again
    streams/    data sets that were read from a stream, see `hub`

One process fetches an archive while the others wait for it. A failed download is resumed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from alitok.core.errors import AlitokError, error_text
from alitok.core.lock import locked, mark_in_use, try_lock_unused
from alitok.data.sources.archive_index import ArchiveFile

_DEFAULT_GB = 200.0
_TRIES = 5  # in a row without progress
_CHUNK = 1 << 23  # bytes read at a time
_FINAL = (401, 403, 404, 410)  # HTTP statuses that a retry does not change
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)  # our own disk failed, not the network


@dataclass(frozen=True)
class Cache:
    """One cache folder, created on first use."""

    root: Path
    limit: int  # bytes that fetched archives may take
    pause: float = 1.0  # seconds before the first retry of a download, doubled each time

    def index(self, *identity: object) -> Path:
        """Where the index of what `identity` names is saved."""
        return self.root / "indexes" / f"{_hash(*identity)}.npz"

    def folder(self, kind: str, *identity: object) -> Path:
        """Where several files that belong together are saved."""
        return self.root / kind / _hash(*identity)

    def has(self, url: str) -> bool:
        """Whether an archive has been fetched."""
        return self._path(url).exists()

    def open(self, url: str) -> ArchiveFile:
        """Open an archive, fetching it first if it is not cached; AlitokError where it cannot be fetched."""
        path = self._path(url)
        try:
            file = _take(path)
            if file is None:
                with self.lock(path):
                    file = _take(path) or self._fetch(url, path)
        except OSError as error:  # of the cache itself, so not the fault of any image
            raise AlitokError(f"{url} cannot be cached in {self.root}: {error.strerror or error}.") from None
        return file

    def _path(self, url: str) -> Path:
        return self.root / "shards" / f"{_hash(url)}.tar"

    @contextmanager
    def lock(self, path: Path) -> Iterator[None]:
        """Let one process and thread create what will be at `path`; AlitokError where the cache cannot be written."""
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(path.with_suffix(".lock")))
            except OSError as error:
                raise AlitokError(
                    f"The cache {self.root} cannot be written ({error.strerror}); set ALITOK_CACHE to another folder."
                ) from None
            yield

    def _fetch(self, url: str, path: Path) -> ArchiveFile:
        failures, received = 0, -1
        while True:
            try:
                return self._download(url, path)
            except AlitokError:
                raise
            except Exception as error:  # each file system has its own kinds
                cause = error.__cause__ or error
                size = sum(found.st_size for found, part in _files(path.parent) if part.stem.startswith(path.stem))
                failures, received = (1, size) if size > received else (failures + 1, received)
                final = isinstance(cause, FileNotFoundError | PermissionError)
                final |= getattr(cause, "status", None) in _FINAL or getattr(error, "errno", None) in _DISK
                if failures == _TRIES or final:
                    why = error_text(cause, whole=True).rstrip(".")
                    raise AlitokError(f"{url} cannot be fetched: {why}. Run it again to resume the download.") from None
            time.sleep(self.pause * 2 ** (failures - 1))

    def _download(self, url: str, path: Path) -> ArchiveFile:
        """Fetch the missing bytes; the name of the partial file depends on the version of the remote file."""
        system, name = _file_system(url)
        info = system.info(name)
        size = info.get("size")
        version = [info.get(key) for key in ("ETag", "etag", "Last-Modified", "LastModified", "mtime")]
        part = path.with_name(f"{path.stem}-{_hash(size, *version)}.part")
        self._make_room(size or 0, url, part)
        with _appended(part) as out:
            for chunk in _chunks(system, name, info, out):
                out.write(chunk)
            out.flush()
            if size is not None and out.tell() != size:
                raise EOFError(f"received {out.tell():,} of {size:,} bytes")
            os.fsync(out.fileno())
            file = _take(part)  # before `out` is closed, so that it is in use without a gap
            assert file is not None
            part.replace(path)
        for other in path.parent.glob(f"{path.stem}-*.part"):  # of earlier versions
            other.unlink(missing_ok=True)
        return file

    def _make_room(self, size: int, url: str, part: Path) -> None:
        """Evict archives, least recently used first, until one of `size` bytes fits or all others are in use."""
        if size > self.limit:
            raise AlitokError(
                f"{url} has {size / 1e9:.2f} GB and the limit of the cache is {self.limit / 1e9:.2f}; raise "
                "ALITOK_CACHE_GB."
            )
        held = [(found, path) for found, path in _files(part.parent) if path != part]
        total = sum(found.st_size for found, _ in held)
        for found, path in sorted(held, key=lambda pair: pair[0].st_mtime_ns):
            if total + size <= self.limit:
                return
            if _evict(path):
                total -= found.st_size


def open_cache() -> Cache:
    """The cache that the environment names; raises AlitokError where ALITOK_CACHE_GB is not a number."""
    root = os.environ.get("ALITOK_CACHE") or "~/.cache/alitok"
    limit = os.environ.get("ALITOK_CACHE_GB") or str(_DEFAULT_GB)
    try:
        bytes_ = int(float(limit) * 1e9)
    except (ValueError, OverflowError):
        raise AlitokError(f"ALITOK_CACHE_GB must be a number of gigabytes, not {limit!r}.") from None
    return Cache(Path(root).expanduser().absolute(), bytes_)


def _hash(*identity: object) -> str:
    return hashlib.sha256("\0".join(map(str, identity)).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _files(folder: Path) -> list[tuple[os.stat_result, Path]]:
    """Archives and partial archives, while other processes add and delete some."""
    found = []
    for path in folder.iterdir():
        if path.suffix in (".tar", ".part"):
            with suppress(FileNotFoundError):
                found.append((path.stat(), path))
    return found


@contextmanager
def _appended(part: Path) -> Iterator[IO[bytes]]:
    """Open a partial archive for appending, marked as in use meanwhile."""
    while True:
        with part.open("ab") as out:
            mark_in_use(out.fileno())
            if os.fstat(out.fileno()).st_nlink:  # else it was deleted in between
                yield out
                return


def _take(path: Path) -> ArchiveFile | None:
    """Open an archive and mark it as in use for as long as it is open; None if it does not exist."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    file = ArchiveFile(descriptor)
    mark_in_use(descriptor)
    if os.fstat(descriptor).st_nlink == 0:  # deleted in between
        return None
    with suppress(PermissionError):  # a cache of another user
        os.utime(descriptor)
    return file


def _evict(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            unused = try_lock_unused(file.fileno())
            if unused:
                path.unlink()
    except OSError:  # gone
        return False
    return unused


def _file_system(url: str) -> tuple[Any, str]:
    """An fsspec file system, and the name of the file in it."""
    scheme = url.partition("://")[0]
    web = scheme in ("http", "https")
    options: dict[str, Any] = {}
    try:
        import fsspec

        if web:
            import aiohttp

            timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
            options["client_kwargs"] = {"timeout": timeout, "trust_env": True}  # no limit on the whole archive
        return fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        if web:
            raise AlitokError(f"To read {scheme}:// URLs, run: pip install 'alitok[stream]'.") from None
        raise AlitokError(f"{url} cannot be opened: {str(error).rstrip('.')}.") from None  # it names what to install
    except ValueError:
        raise AlitokError(f"{url}: URLs that begin with {scheme}:// are not supported.") from None


def _chunks(system: Any, name: str, info: Mapping[str, Any], out: IO[bytes]) -> Iterator[bytes]:
    """The missing rest of `out`, which is emptied first where the source can only be read from its beginning."""
    if info.get("partial", True):
        try:
            with system.open(name, "rb", block_size=_CHUNK, cache_type="none") as remote:
                remote.seek(out.tell())
                while chunk := remote.read(_CHUNK):
                    yield chunk
            return
        except ValueError:  # a web server that does not announce that it has no ranges
            pass
    out.seek(0)
    out.truncate()
    with system.open(name, "rb", block_size=0) as remote:
        while chunk := remote.read(_CHUNK):
            yield chunk
