"""Archives that are fetched: over HTTP with and without ranges, over connections that drop, and out of a full cache."""

import contextlib
import io
import multiprocessing
import os
import re
import sys
import tarfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from alitok.core.errors import AlitokError
from alitok.data.loader import Batches
from alitok.data.sources.cache import Cache, open_cache
from alitok.data.sources.opening import open_images, open_splits
from alitok.data.survey import Preview, preview

pytest.importorskip("aiohttp")


class Server:
    """Serves `files` on 127.0.0.1, and misbehaves as told.

    Attributes:
        ranges: whether parts of a file can be asked for.
        drops: numbers of the answers that end after half of what they promised.
        status: by path, what is answered instead.
        gets: (path, first byte) of each answer.
    """

    def __init__(self):
        self.files, self.status, self.gets = {}, {}, []
        self.ranges, self.drops = True, ()
        self.says_so, self.lock = True, threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_HEAD(self):
                self.answer(head=True)

            def do_GET(self):
                self.answer(head=False)

            def answer(self, head):
                status = outer.status.get(self.path, 200 if self.path in outer.files else 404)
                if status != 200:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                whole = outer.files[self.path]
                asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
                start, end = (int(asked[1]), int(asked[2]) + 1) if asked and outer.ranges else (0, len(whole))
                body = whole[start:end]
                self.send_response(206 if asked and outer.ranges else 200)
                if outer.says_so:
                    self.send_header("Accept-Ranges", "bytes" if outer.ranges else "none")
                self.send_header("Content-Length", str(len(body)))
                if asked and outer.ranges:
                    self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(whole)}")
                self.end_headers()
                if head:
                    return
                with outer.lock:
                    dropped = len(outer.gets) in outer.drops
                    outer.gets.append((self.path, start))
                with contextlib.suppress(ConnectionError):  # who asked may have gone
                    self.wfile.write(body[: len(body) // 2] if dropped else body)
                if dropped:
                    with contextlib.suppress(OSError):
                        self.connection.shutdown(2)
                    self.close_connection = True

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server():
    serving = Server()
    yield serving
    serving.http.shutdown()
    serving.http.server_close()


@pytest.fixture
def small_chunks(monkeypatch):
    """Eight of them make `WHOLE`."""
    monkeypatch.setattr("alitok.data.sources.cache._CHUNK", 1 << 17)


WHOLE = np.random.default_rng(0).bytes(1 << 20)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALITOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("alitok.data.sources.cache.time.sleep", lambda _: None)
    return Cache(tmp_path / "cache", 10**9)


def png(number):
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), (number, 0, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def archive(numbers, more=()):
    """The bytes of an archive as WebDataset writes them, with `more` members at the end."""
    members = [(f"{number:04d}.png", png(number)) for number in numbers]
    members += [(f"{number:04d}.cls", b"ab"[number % 2 :][:1]) for number in numbers]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as out:
        for name, body in [*members, *more]:
            member = tarfile.TarInfo(name)
            member.size = len(body)
            out.addfile(member, io.BytesIO(body))
    return buffer.getvalue()


def shards(server, count, each=4):
    for shard in range(count):
        server.files[f"/{shard:03d}.tar"] = archive(range(shard * each, shard * each + each))
    return f"{server.url}/{{000..{count - 1:03d}}}.tar"


def content(cache, url):
    file = cache.open(url)
    return file.read(0, 1 << 30)


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("drops", [(), (0,), (1,), (0, 1, 2), (0, 2, 4, 6, 8, 10, 12)])
def test_what_arrives_is_what_was_sent_whatever_drops(server, cache, ranges, drops, small_chunks):
    server.files["/x.tar"], server.ranges, server.drops = WHOLE, ranges, drops
    assert content(cache, f"{server.url}/x.tar") == WHOLE
    starts = [start for _, start in server.gets]
    if ranges:  # only what was lost is asked for again
        assert sorted(set(starts)) == list(range(0, 1 << 20, 1 << 17))
        assert starts == sorted(starts)
        assert len(starts) == 8 + len(drops)
    assert {path.suffix for path in (cache.root / "shards").iterdir()} == {".tar", ".lock"}


@pytest.mark.parametrize("ranges", [True, False])
def test_what_has_come_is_kept_when_the_server_fails_for_good(server, cache, ranges, small_chunks):
    server.files["/x.tar"], server.ranges, server.drops = WHOLE, ranges, range(3 if ranges else 0, 1000)
    with pytest.raises(AlitokError, match=r"x\.tar cannot be fetched: .* Run it again to resume") as caught:
        cache.open(f"{server.url}/x.tar")
    assert "\n" not in str(caught.value)
    assert not ranges or [path.stat().st_size for path in cache.root.glob("shards/*.part")] == [3 << 17]
    server.drops = ()
    server.gets.clear()
    assert content(cache, f"{server.url}/x.tar") == WHOLE
    assert not ranges or server.gets[0] == ("/x.tar", 3 << 17)


def test_a_server_that_does_not_say_that_it_has_no_ranges(server, cache, small_chunks):
    server.files["/x.tar"], server.ranges, server.says_so = WHOLE, False, False
    assert content(cache, f"{server.url}/x.tar") == WHOLE


def test_a_file_that_has_changed_is_downloaded_again(server, cache, monkeypatch):
    monkeypatch.setattr("alitok.data.sources.cache._CHUNK", 100)
    server.files["/x.tar"], server.drops = b"a" * 1000, range(3, 1000)
    url = f"{server.url}/x.tar"
    with pytest.raises(AlitokError):
        cache.open(url)
    server.files["/x.tar"], server.drops = b"b" * 1001, ()
    assert content(cache, url) == b"b" * 1001
    assert not list(cache.root.glob("shards/*.part"))


def test_what_came_of_an_archive_that_nobody_fetches_any_more_makes_room(server, tmp_path, monkeypatch):
    monkeypatch.setattr("alitok.data.sources.cache._CHUNK", 100)
    monkeypatch.setattr("alitok.data.sources.cache.time.sleep", lambda _: None)
    server.files |= {"/x.tar": b"x" * 1000, "/y.tar": b"y" * 1000}
    server.drops = range(5, 1000)
    cache = Cache(tmp_path / "cache", 1400)
    with pytest.raises(AlitokError):
        cache.open(f"{server.url}/x.tar")
    server.drops = ()
    assert content(cache, f"{server.url}/y.tar") == b"y" * 1000
    assert not list(cache.root.glob("shards/*.part"))


@pytest.mark.parametrize("status", [403, 404])
def test_a_missing_file_is_not_requested_again(server, cache, status):
    server.files["/x.tar"] = b"x"
    server.status["/x.tar"] = status
    with pytest.raises(AlitokError, match=rf"{server.url}/x\.tar cannot be fetched: .*{status}"):
        cache.open(f"{server.url}/x.tar")
    assert server.gets == []


def test_a_server_that_is_busy_is_asked_again(server, cache, monkeypatch):
    server.files["/x.tar"] = b"x" * 100
    server.status["/x.tar"] = 503
    waits = []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            server.status.clear()

    monkeypatch.setattr("alitok.data.sources.cache.time.sleep", wait)
    assert content(cache, f"{server.url}/x.tar") == b"x" * 100
    assert waits == [1, 2, 4]


def test_no_network(cache):
    with pytest.raises(AlitokError, match=r"http://127\.0\.0\.1:1/x\.tar cannot be fetched") as caught:
        cache.open("http://127.0.0.1:1/x.tar")
    assert "\n" not in str(caught.value)


def test_schemes(cache):
    with pytest.raises(AlitokError, match="begin with nonsense:// are not supported"):
        cache.open("nonsense://x.tar")


@pytest.mark.parametrize(
    ("missing", "url", "message"),
    [
        ("aiohttp", "https://x/y.tar", r"To read https:// URLs, run: pip install 'alitok\[stream\]'"),
        ("s3fs", "s3://bucket/y.tar", r"s3://bucket/y\.tar cannot be opened: Install s3fs"),
    ],
)
def test_a_missing_package_is_named(cache, monkeypatch, missing, url, message):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(AlitokError, match=message):
        cache.open(url)


def test_several_who_want_an_archive_fetch_it_once(server, cache):
    server.files["/x.tar"] = WHOLE
    with ThreadPoolExecutor(8) as pool:
        files = list(pool.map(lambda _: content(cache, f"{server.url}/x.tar"), range(8)))
    assert set(files) == {WHOLE}
    assert server.gets == [("/x.tar", 0)]


def empty(cache):
    """Archives are gone, their indexes stay."""
    for path in cache.root.glob("shards/*.tar"):
        path.unlink()


def test_the_least_recently_used_archive_goes_first_and_one_in_use_stays(server, tmp_path):
    for number in range(5):
        server.files[f"/{number}.tar"] = bytes([number]) * 1000
    cache = Cache(tmp_path / "cache", 3000)
    path = lambda number: cache._path(f"{server.url}/{number}.tar")  # noqa: E731
    for number in range(3):
        cache.open(f"{server.url}/{number}.tar")
        os.utime(path(number), ns=(number, number))
    held = cache.open(f"{server.url}/0.tar")  # opened, so the most recent now
    os.utime(path(0), ns=(0, 0))  # the oldest all the same: it stays because it is in use
    cache.open(f"{server.url}/3.tar")
    assert [path(number).exists() for number in range(4)] == [True, False, True, True]
    assert held.read(0, 9) == bytes(9)
    del held
    cache.open(f"{server.url}/4.tar")
    assert [path(number).exists() for number in range(5)] == [False, False, True, True, True]
    assert content(cache, f"{server.url}/1.tar") == b"\1" * 1000


def hold(cache, url, ready, done):
    file = cache.open(url)
    ready.set()
    done.wait(60)
    assert file.read(0, 1) == b"0"


def test_an_archive_that_another_process_reads_stays(server, tmp_path):
    for number in range(3):
        server.files[f"/{number}.tar"] = str(number).encode() * 1000
    cache = Cache(tmp_path / "cache", 2000)
    url = f"{server.url}/0.tar"
    cache.open(url)
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(cache, url, ready, done))
    other.start()
    assert ready.wait(60)
    os.utime(cache._path(url), ns=(0, 0))
    cache.open(f"{server.url}/1.tar")
    cache.open(f"{server.url}/2.tar")
    assert cache._path(url).exists()
    assert not cache._path(f"{server.url}/1.tar").exists()
    done.set()
    other.join()
    assert other.exitcode == 0


def test_an_archive_that_does_not_fit_at_all(server, tmp_path):
    server.files["/x.tar"] = bytes(2000)
    with pytest.raises(AlitokError, match=r"x\.tar has .* GB and the limit of the cache is .*ALITOK_CACHE_GB"):
        Cache(tmp_path / "cache", 1000).open(f"{server.url}/x.tar")


def test_a_cache_that_cannot_be_written(server, tmp_path):
    (tmp_path / "cache").write_text("a file")
    server.files["/x.tar"] = bytes(10)
    with pytest.raises(AlitokError, match=r"cannot be written .* ALITOK_CACHE"):
        Cache(tmp_path / "cache", 1000).open(f"{server.url}/x.tar")


def test_the_environment_names_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ALITOK_CACHE", str(tmp_path / "x"))
    monkeypatch.setenv("ALITOK_CACHE_GB", "1.5")
    assert open_cache() == Cache(tmp_path / "x", 1_500_000_000)
    monkeypatch.setenv("ALITOK_CACHE_GB", "much")
    with pytest.raises(AlitokError, match="ALITOK_CACHE_GB must be a number of gigabytes, not 'much'"):
        open_cache()
    monkeypatch.delenv("ALITOK_CACHE_GB")
    monkeypatch.delenv("ALITOK_CACHE")
    assert open_cache().limit == 200 * 10**9


def test_fetched_archives_hold_what_local_ones_do(server, cache, tmp_path):
    source = shards(server, 3)
    said = []
    fetched = open_images(source, said.append)
    urls = [f"{server.url}/{shard:03d}.tar" for shard in range(3)]
    assert sorted(said) == [*(f"{n} of 3 archives listed" for n in (1, 2, 3)), *(f"Fetching {url}" for url in urls)]
    open_images(source, said.append)  # all is known by now
    assert len(said) == 6
    for shard in range(3):
        (tmp_path / "local" / f"{shard:03d}.tar").parent.mkdir(exist_ok=True)
        (tmp_path / "local" / f"{shard:03d}.tar").write_bytes(server.files[f"/{shard:03d}.tar"])
    local = open_images(str(tmp_path / "local"))
    assert [fetched.key(row) for row in range(12)] == [local.key(row) for row in range(12)]
    assert [fetched.encoded(row) for row in range(12)] == [local.encoded(row) for row in range(12)]
    assert (fetched.contents, fetched.classes) == (local.contents, local.classes)
    assert fetched.groups.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert local.groups is None
    assert Counter(path for path, _ in server.gets) == {f"/{shard:03d}.tar": 1 for shard in range(3)}


def test_a_second_start_fetches_nothing_even_when_archives_are_gone(server, cache, tmp_path):
    source = shards(server, 3)
    first = open_images(source)
    empty(cache)
    server.gets.clear()
    second = open_images(source)
    assert second.contents == first.contents
    assert server.gets == []
    assert second.encoded(5) == png(5)
    assert server.gets == [("/001.tar", 0)]


def test_a_first_look_opens_few_archives(server, cache, tmp_path):
    source = shards(server, 20)
    open_images(source)
    empty(cache)
    server.gets.clear()
    said = []
    assert preview(source, log=said.append) == Preview(16, 72)
    assert 0 < len({path for path, _ in server.gets}) <= 4
    assert said == [f"Previewing 16 images from 4 archives of {source}"]


def test_many_archives_are_reported_at_most_a_hundred_times(cache, tmp_path):
    for number in range(250):
        path = tmp_path / "tars" / f"{number:03d}.tar"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(archive([number]))
    said = []
    open_images(str(tmp_path / "tars"), said.append)
    assert 50 < len(said) <= 100
    assert said[-1] == "250 of 250 archives listed"


def test_val_archives_at_another_address(server, cache, tmp_path):
    shards(server, 3)
    splits = open_splits(f"{server.url}/{{000..001}}.tar?val={server.url}/002.tar", 16)
    assert (len(splits.train), len(splits.val)) == (8, 4)
    assert splits.val.key(0) == "002.tar/0008.png"


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_when_the_cache_holds_one_archive_only(server, cache, tmp_path, monkeypatch, workers):
    source = shards(server, 18)  # more than are mixed at a time
    train = open_splits(source, 16).train
    iterator = iter(Batches(train, 10, 3, 2))
    expected = list(islice(iterator, 7))  # over the end of an epoch
    largest = max(map(len, server.files.values()))
    monkeypatch.setenv("ALITOK_CACHE", str(tmp_path / "small"))
    monkeypatch.setenv("ALITOK_CACHE_GB", str(1.5 * largest / 1e9))
    monkeypatch.setattr("alitok.data.sources.archive._MOST_OPEN_FETCHED", 1)
    small = open_splits(source, 16).train
    iterator = iter(Batches(small, 10, 3, 2, workers))
    for batch, same in zip(islice(iterator, 7), expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch, same, strict=True))
    iterator.close()
    left = len(list((tmp_path / "small" / "shards").glob("*.tar")))
    assert left <= 2 * max(workers, 1) + 1  # a process holds the old one until it has the new one


def test_a_lost_network_is_not_a_broken_image(server, cache, tmp_path):
    train = open_splits(shards(server, 3), 16).train
    empty(cache)
    for path in server.files:
        server.status[path] = 404
    with pytest.raises(AlitokError, match="cannot be fetched"):
        train.verify()
    with pytest.raises(AlitokError, match="cannot be fetched"):
        train.read(0, None)


def test_a_broken_image_in_a_fetched_archive_is_named(server, cache, tmp_path):
    server.files["/x.tar"] = archive(range(40), [("bad.png", b"no image"), ("bad.cls", b"a")])
    splits = open_splits(f"{server.url}/x.tar", 16)
    broken = [*splits.train.verify(), *splits.val.verify()]
    assert [tuple(each) for each in broken] == [("x.tar/bad.png", "is not an image that Pillow can read")]


def test_any_file_system_that_fsspec_knows(cache, tmp_path):
    import fsspec

    whole = archive(range(5))
    with fsspec.open("memory://bucket/0.tar", "wb") as file:
        file.write(whole)
    images = open_images("memory://bucket/{0..0}.tar")
    assert [images.encoded(row) for row in range(5)] == [png(number) for number in range(5)]
    assert Image.open(io.BytesIO(images.encoded(0))).size == (20, 20)
    with pytest.raises(AlitokError, match=r"memory://bucket/1\.tar cannot be fetched"):
        open_images("memory://bucket/{0..1}.tar")
