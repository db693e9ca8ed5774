import io
import json
import os
import pickle
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alitok.core.errors import AlitokError
from alitok.data.loader import Batches
from alitok.data.sources.archive import OpenShards, Shard
from alitok.data.sources.archive_index import ArchiveIndex, index_archive
from alitok.data.sources.cache import Cache
from alitok.data.sources.images import Broken, Strings
from alitok.data.sources.opening import open_images, open_splits


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALITOK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def png(number, size=20):
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (number % 256, number // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path, members, **options):
    """Members are (name, bytes); a name alone is a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if content is None:
                member.type = tarfile.DIRTYPE
            member.size = len(content or b"")
            archive.addfile(member, io.BytesIO(content or b""))
    return path


def loose(root, names):
    """Images in files of their own."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(number))


def samples(numbers, label=lambda number: "ab"[number % 2]):
    """As WebDataset writes them."""
    for number in numbers:
        yield f"{number:04d}.png", png(number)
        yield f"{number:04d}.cls", label(number).encode()


def found(images):
    """Class and red value by key, in the order of the source."""
    return {
        images.key(row): (
            images.classes[images.labels[row]],
            np.asarray(Image.open(io.BytesIO(images.encoded(row))))[0, 0, 0].item(),
        )
        for row in range(len(images))
    }


def test_samples_are_read_where_they_stand(tmp_path):
    write(tmp_path / "x.tar", samples(range(6)))
    images = open_images(str(tmp_path / "x.tar"))
    assert found(images) == {f"x.tar/{n:04d}.png": ("ab"[n % 2], n) for n in range(6)}
    assert images.left_out == images.notes == ()
    assert images.groups is images.val is None
    for row in range(6):
        assert images.encoded(row) == png(row)


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["a.png", "d/" * 70 + "deep.png", "é" * 110 + ".png", "x" * 150 + ".png"])
def test_headers_of_all_formats(tmp_path, kind, name):
    try:
        write(tmp_path / "x.tar", [("z/0.png", png(3)), (name, png(4))], format=kind)
    except ValueError:
        assert kind == tarfile.USTAR_FORMAT  # which has no long names
        return
    index = index_archive((tmp_path / "x.tar").open("rb"), "x.tar")
    assert [index.keys[row] for row in range(2)] == ["z/0.png", name]
    data = (tmp_path / "x.tar").read_bytes()
    rows = zip(index.offsets.tolist(), index.sizes.tolist(), strict=True)
    assert [data[start : start + size] for start, size in rows] == [png(3), png(4)]
    assert index.problems == ()


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ({"cls": b"3\n"}, "3"),
        ({"cls": b"cat"}, "cat"),
        ({"cls.txt": " Käfer ".encode()}, "Käfer"),
        ({"json": b'{"label": 3}'}, "3"),
        ({"json": b'{"class": "x", "other": 1}'}, "x"),
        ({"json": b'{"cls": 4.0}'}, "4"),
        ({"json": b"7"}, "7"),
        ({"json": b'{"label": 1}', "cls": b"2"}, "2"),
        ({"CLS": b"2", "txt": b"a caption"}, "2"),
    ],
)
@pytest.mark.parametrize("label_first", [True, False])
def test_where_labels_are(tmp_path, labels, classes, label_first):
    members = [(f"a.{ending}", content) for ending, content in labels.items()]
    members.insert(len(members) * label_first, ("a.png", png(1)))
    write(tmp_path / "x.tar", [*members, ("b.png", png(2)), ("b.cls", b"other")])
    assert found(open_images(str(tmp_path / "x.tar"))) == {"x.tar/a.png": (classes, 1), "x.tar/b.png": ("other", 2)}


def test_a_sample_is_what_comes_before_the_first_dot(tmp_path):
    members = [("d/a.png", png(1)), ("d/a.mask.png", png(2)), ("d/a.cls", b"x")]  # one sample
    members += [("e/a.v1.png", png(3)), ("e/a.v2.png", png(4)), ("e/a.cls", b"y")]  # none is plain, so both count
    write(tmp_path / "x.tar", members)
    images = open_images(str(tmp_path / "x.tar"))
    assert found(images) == {"x.tar/d/a.png": ("x", 1), "x.tar/e/a.v1.png": ("y", 3), "x.tar/e/a.v2.png": ("y", 4)}
    assert "such as x.tar/d/a.mask.png" in images.notes[0]


def test_two_images_of_one_name_are_one_sample_and_the_other_is_reported(tmp_path):
    names = ["cat/a.jpg", "cat/a.png", "cat/b.png", "dog/a.png", "dog/b.png", "dog/b.small.png", "dog/b.tif"]
    for shard in range(2):
        write(tmp_path / f"{shard}.tar", [(name, png(n)) for n, name in enumerate(names)])
    for _ in range(2):  # read anew, and from the kept index
        images = open_images(f"{tmp_path}/*.tar")
        assert list(found(images)) == [
            f"{shard}.tar/{name}" for shard in range(2) for name in ("cat/a.jpg", "cat/b.png", "dog/a.png", "dog/b.png")
        ]
        (note,) = images.notes
        assert note.startswith("6 images")
        assert "such as 0.tar/cat/a.png:" in note


@pytest.mark.parametrize("prefix", ["", "./", "deep/er/"])
def test_without_labels_the_folder_is_the_class(tmp_path, prefix):
    names = ["cat/1.png", "dog/1.png", "cat/more/2.png"]
    write(tmp_path / "x.tar", [(prefix + "cat", None), *((prefix + name, png(n)) for n, name in enumerate(names))])
    images = open_images(str(tmp_path / "x.tar"))
    assert [images.classes[label] for label in images.labels] == ["cat", "dog", "cat"]
    assert len(set(found(images))) == 3


@pytest.mark.parametrize(("prefix", "name"), [("", "x"), ("cats/", "cats")])
def test_without_labels_and_folders_there_is_one_class(tmp_path, prefix, name):
    write(tmp_path / "x.tar", [(f"{prefix}{n}.png", png(n)) for n in range(3)])
    assert open_images(str(tmp_path / "x.tar")).classes == (name,)


def test_links_in_an_archive_are_named(tmp_path):
    with tarfile.open(write(tmp_path / "x.tar", [("c/1.png", png(1)), ("c/2.png", png(2))]), "a") as archive:
        for kind, name in ((tarfile.SYMTYPE, "c/3.png"), (tarfile.LNKTYPE, "c/4.png"), (tarfile.SYMTYPE, "c/text")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "c/1.png"
            archive.addfile(member)
    images = open_images(str(tmp_path / "x.tar"))
    assert len(images) == 2
    assert [broken.key for broken in images.left_out] == ["x.tar/c/3.png", "x.tar/c/4.png"]


def test_several_archives_without_labels_are_one_class_named_after_their_folder(tmp_path):
    for shard in range(2):
        write(tmp_path / "cats" / f"{shard}.tar", [(f"{n}.png", png(n)) for n in range(3)])
    for source in ("cats", "cats/*.tar"):
        assert open_images(f"{tmp_path}/{source}").classes == ("cats",)


def test_one_archive_per_class(tmp_path):
    for name in ("ant", "bee"):
        write(tmp_path / f"{name}.tar", [(f"{name}/{n}.png", png(n)) for n in range(3)])
    images = open_images(f"{tmp_path}/*.tar")
    assert {key: label for key, (label, _) in found(images).items()} == {
        f"{name}.tar/{name}/{n}.png": name for name in ("ant", "bee") for n in range(3)
    }


def test_a_folder_that_was_packed_with_its_parts(tmp_path):
    names = [f"pets/{part}/{name}/{n}.png" for part in ("train", "val") for name in ("ant", "bee") for n in range(2)]
    write(tmp_path / "x.tar", [(name, png(n)) for n, name in enumerate(names)])
    images = open_images(str(tmp_path / "x.tar"))
    assert images.classes == ("ant", "bee")
    assert images.val.tolist() == [False] * 4 + [True] * 4
    assert [images.classes[label] for label in images.labels] == [name.split("/")[2] for name in names]


def test_hidden_members_and_other_files_are_no_images(tmp_path):
    members = [("a/1.png", png(1)), ("a/._1.png", b"apple"), ("a/.x/2.png", png(2)), ("a/readme.txt", b"hello")]
    write(tmp_path / "x.tar", members)
    assert list(found(open_images(str(tmp_path / "x.tar")))) == ["x.tar/a/1.png"]


def shards(tmp_path, prefixes="train train val"):
    for number, prefix in enumerate(prefixes.split()):
        write(tmp_path / f"{prefix}-{number:03d}.tar", samples(range(10 * number, 10 * number + 10)))


@pytest.mark.parametrize(
    "source", ["", "/*.tar", "/{train-000,train-001,val-002}.tar", "/train-{000..001}.tar?val=FOLDER/val-*.tar"]
)
def test_several_archives_and_their_parts(tmp_path, source):
    shards(tmp_path)
    splits = open_splits(str(tmp_path) + source.replace("FOLDER", str(tmp_path)), 16)
    assert (len(splits.train), len(splits.val)) == (20, 10)
    assert splits.train.key(13) == "train-001.tar/0013.png"
    assert splits.val.key(0) == "val-002.tar/0020.png"
    assert splits.val.verify() == []
    again = open_splits(splits.name, 16)
    assert again.contents == splits.contents


@pytest.mark.parametrize("source", ["tars", "tars/*.tar", "tars?val=../held/h-*.tar", "tars?val=h*.tar"])
def test_the_name_of_what_was_opened_opens_the_same_from_another_folder(tmp_path, monkeypatch, source):
    for number in range(3):
        write(tmp_path / "work" / "tars" / f"{number}.tar", samples(range(10 * number, 10 * number + 10)))
    write(tmp_path / "held" / "h-0.tar", samples(range(50, 56)))
    write(tmp_path / "work" / "h-0.tar", samples(range(50, 56)))
    monkeypatch.chdir(tmp_path / "work")
    opened = open_splits(source, 16)
    monkeypatch.chdir(tmp_path / "held")
    again = open_splits(opened.name, 16)
    assert (again.name, again.contents) == (opened.name, opened.contents)
    assert [again.val.key(row) for row in range(len(again.val))] == [
        opened.val.key(row) for row in range(len(opened.val))
    ]
    assert len(again.val) == (6 if "val" in source else 4)


def test_class_folders_are_used_and_not_an_archive_beside_them(tmp_path):
    loose(tmp_path, ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"])
    before = open_images(str(tmp_path))
    write(tmp_path / "backup.tar", samples(range(4)))
    after = open_images(str(tmp_path))
    assert found(after) == found(before)
    assert (after.classes, after.contents) == (("cat", "dog"), before.contents)
    (note,) = after.notes
    assert "backup.tar" in note
    assert str(tmp_path / "*.tar") in note
    assert open_images(f"{tmp_path}/*.tar").classes == ("a", "b")
    write(tmp_path / "held.tar", samples(range(2)))  # an option that archives alone have says what is meant
    splits = open_splits(f"{tmp_path}?val={tmp_path}/held.tar", 16)
    assert splits.train.classes == ("a", "b")
    assert "4 images" in splits.notes[-1]


def test_archives_are_used_and_not_single_images_beside_them(tmp_path):
    write(tmp_path / "x.tar", samples(range(4)))
    (tmp_path / "logo.png").write_bytes(png(0))
    (tmp_path / "folder.tar").mkdir()
    (tmp_path / "._x.tar").write_bytes(b"of another system")
    images = open_images(str(tmp_path))
    assert len(images) == 4
    (note,) = images.notes
    assert note.startswith("1 images")
    assert "logo.png" in note


@pytest.mark.parametrize("odd", ["a[1]", "*", "wh?t", "{a,b}", "[", "a[!x]{0..3}"])
def test_folders_whose_names_hold_signs_of_patterns(tmp_path, odd):
    for shard in range(2):
        write(tmp_path / odd / f"{shard}.tar", samples(range(2 * shard, 2 * shard + 2)))
    write(tmp_path / "b" / "0.tar", samples(range(9)))  # what these signs would stand for
    write(tmp_path / "a1" / "0.tar", samples(range(9)))
    for source in (odd, f"{odd}/*.tar", f"{odd}/{{0..1}}.tar"):
        assert set(found(open_images(f"{tmp_path}/{source}"))) == {f"{n // 2}.tar/{n:04d}.png" for n in range(4)}
    assert len(open_images(f"{tmp_path}/{odd}/1.tar")) == 2
    loose(tmp_path / "folders", [f"{name}/{n}.png" for name in ("cat", odd) for n in range(2)])
    splits = open_splits(f"{tmp_path}/folders", 16)
    assert splits.train.classes == tuple(sorted(("cat", odd)))
    assert splits.train.verify() == splits.val.verify() == []


def test_archives_of_one_name_in_two_folders_have_keys_of_their_own(tmp_path):
    for folder in "ab":
        write(tmp_path / folder / "x.tar", samples(range(2)))
    images = open_images(f"{tmp_path}/?/x.tar")
    assert len({images.key(row) for row in range(4)}) == 4


def test_the_hash_follows_the_members(tmp_path):
    hashes = set()
    for members in (samples(range(4)), samples(range(5)), samples(range(5), lambda _: "a")):
        write(tmp_path / "x.tar", members)
        for _ in range(2):
            hashes.add(open_images(str(tmp_path / "x.tar")).contents)
    assert len(hashes) == 3
    moved = tmp_path / "elsewhere" / "x.tar"
    moved.parent.mkdir()
    (tmp_path / "x.tar").rename(moved)
    assert open_images(str(moved)).contents in hashes


def test_the_index_is_cached_and_rebuilt_when_the_archive_changes_or_the_index_is_damaged(tmp_path, cache, monkeypatch):
    path = write(tmp_path / "x.tar", samples(range(4)))
    first = found(open_images(str(path)))
    (kept,) = cache.glob("indexes/*.npz")
    calls = []
    real = index_archive
    monkeypatch.setattr("alitok.data.sources.archive.index_archive", lambda *args: calls.append(1) or real(*args))
    assert found(open_images(str(path))) == first
    assert not calls
    kept.write_bytes(kept.read_bytes()[:50])
    assert found(open_images(str(path))) == first
    assert len(calls) == 1
    write(path, samples(range(5)))
    os.utime(path, ns=(1, 1))
    assert len(open_images(str(path))) == 5
    assert len(calls) == 2


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path, cache):
    cache.write_text("a file")
    path = write(tmp_path / "x.tar", samples(range(4)))
    assert len(open_images(str(path))) == 4


def test_an_index_is_the_same_after_storing(tmp_path):
    names = ["é.png", "b\udcff.png", "c.png"]
    index = ArchiveIndex(
        keys=Strings(names),
        labels=Strings(["", "x", "y\n"]),
        offsets=np.arange(3),
        sizes=np.arange(3) * 2**40,
        problems=(Broken("b", "is broken"),),
        surplus=7,
        example="d\udcff.png",
    )
    again = ArchiveIndex.from_bytes(index.to_bytes())
    assert [again.keys[row] for row in range(3)] == names
    assert [again.labels[row] for row in range(3)] == ["", "x", "y\n"]
    assert (again.offsets == index.offsets).all()
    assert (again.sizes == index.sizes).all()
    assert (again.problems, again.surplus, again.example) == (index.problems, 7, "d\udcff.png")


def big(count):
    """Images of about 1,900 bytes each, so that a cut falls inside one."""
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (25, 25, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        yield f"c/{number}.png", buffer.getvalue()


def test_wherever_an_archive_is_cut_what_is_whole_is_used_and_the_cut_is_named_once(tmp_path):
    whole = write(tmp_path / "whole.tar", [("c", None), *big(5)])
    data, index = whole.read_bytes(), index_archive(whole.open("rb"), "x")
    ends = index.offsets + index.sizes
    end_of_members = int(ends[-1] + 511) // 512 * 512
    for keep in [*range(1100, end_of_members + 1, 377), int(ends[2]), int(index.offsets[2]), end_of_members]:
        path = tmp_path / "x.tar"
        path.write_bytes(data[:keep])
        os.utime(path, ns=(keep, keep))
        complete = int((ends <= keep).sum())
        if not complete:
            with pytest.raises(AlitokError, match="no images"):
                open_images(str(path))
            continue
        images = open_images(str(path))
        assert [images.key(row) for row in range(len(images))] == [f"x.tar/c/{n}.png" for n in range(complete)]
        ((key, reason),) = images.left_out
        assert key.startswith("x.tar")
        assert "cut short" in reason or "damaged" in reason or "does not end" in reason
        inside = complete < 5 and index.offsets[complete] <= keep
        assert (key == f"x.tar/c/{complete}.png") == inside
    path.write_bytes(data)
    assert open_images(str(path)).left_out == ()


def test_a_damaged_header_is_named(tmp_path):
    path = write(tmp_path / "x.tar", big(5))
    data = bytearray(path.read_bytes())
    start = int(index_archive(path.open("rb"), "x").offsets[3]) - 512
    data[start : start + 100] = b"\xff" * 100
    path.write_bytes(data)
    images = open_images(str(path))
    assert len(images) == 3
    assert [key for key, _ in images.left_out] == ["x.tar"]


def test_the_cut_counts_as_broken_when_a_run_checks(tmp_path):
    path = write(tmp_path / "x.tar", big(5))
    os.truncate(path, int(index_archive(path.open("rb"), "x").offsets[3]) + 100)
    splits = open_splits(str(path), 16)
    broken = [*splits.train.verify(part=(1, 2)), *splits.train.verify(part=(0, 2)), *splits.val.verify()]
    assert [key for key, _ in broken] == ["x.tar/c/3.png"]
    assert splits.without({key for key, _ in broken}).train.verify() == []


def test_labels_that_cannot_be_read_and_samples_without_one_are_named(tmp_path):
    members = [("a.png", png(1)), ("a.json", b"{"), ("b.png", png(2)), ("c.png", png(3)), ("c.cls", b"\xff\xfe\xfd")]
    write(tmp_path / "x.tar", [*members, *samples(range(3))])
    images = open_images(str(tmp_path / "x.tar"))
    assert len(images) == 3
    assert [tuple(broken) for broken in images.left_out] == [
        ("x.tar/a.json", "holds no readable label"),
        ("x.tar/c.cls", "holds no readable label"),
        ("x.tar/b.png", "has no label"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x.tar is empty"),
        (b"PK\x03\x04" + bytes(600), "x.tar is a zip archive"),
        (b"\x1f\x8b" + bytes(600), "x.tar is compressed"),
        (b"hello" * 300, "x.tar is not a tar archive, or damaged"),
        (bytes(10240), "x.tar has no images"),
    ],
)
def test_files_that_are_not_archives(tmp_path, content, message):
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(AlitokError, match=message):
        open_images(str(tmp_path / "x.tar"))


def test_a_broken_member_is_named_and_the_others_are_read(tmp_path):
    write(
        tmp_path / "x.tar",
        [*samples(range(9)), ("bad.png", b"no image"), ("bad.cls", b"a"), ("e.png", b""), ("e.cls", b"a")],
    )
    splits = open_splits(str(tmp_path / "x.tar"), 16)
    broken = [*splits.train.verify(), *splits.val.verify()]
    assert {key for key, _ in broken} == {"x.tar/bad.png", "x.tar/e.png"}


def test_an_archive_that_shrinks_later_is_a_one_line_error(tmp_path):
    path = write(tmp_path / "x.tar", big(5))
    splits = open_splits(str(path), 16)
    os.truncate(path, 600)
    with pytest.raises(AlitokError, match=r"x\.tar/c/\d\.png cannot be decoded \(its archive ends too early\)"):
        splits.train.read(2, None)


def test_batches_are_those_of_the_same_images_in_folders_for_any_number_of_workers(tmp_path):
    loose(tmp_path / "folder", [f"{'ab'[number % 2]}/{number:04d}.png" for number in range(30)])
    by_class = sorted(range(30), key=lambda number: number % 2)
    for shard in range(3):
        write(tmp_path / "tars" / f"{shard}.tar", samples(by_class[10 * shard : 10 * shard + 10]))
    batches = []
    for source in ("folder", "tars"):
        for workers in (0, 2):
            train = open_splits(str(tmp_path / source), 16, 1).train
            iterator = iter(Batches(train, 8, 5, 3, workers))
            batches.append(list(islice(iterator, 6)))
            iterator.close()
    for other in batches[1:]:
        for step, expected in zip(other, batches[0], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(step, expected, strict=True))


def test_images_survive_pickling_and_threads(tmp_path):
    shards(tmp_path, "a b c")
    images = open_images(f"{tmp_path}/*.tar")
    images.encoded(0)
    again = pickle.loads(pickle.dumps(images))
    assert found(again) == found(images)
    images.files = OpenShards(1)  # every read closes what others read from
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(images.encoded, list(range(30)) * 20)) == [png(n) for n in range(30)] * 20


def test_a_fork_reads_with_files_of_its_own(tmp_path, together):
    shards(tmp_path, "a b c")
    images = open_images(f"{tmp_path}/*.tar")
    images.encoded(0)
    lock = images.files._lock
    held = threading.Thread(target=lock.acquire)  # a lock that some thread holds at the fork must not stop the child
    held.start()
    held.join()
    assert together(lambda world: found(images)) == [found(pickle.loads(pickle.dumps(images)))] * 2
    lock.release()


def test_only_so_many_archives_are_open(tmp_path, cache):
    shards(tmp_path, "a b c d")
    listed = [Shard(path.name, path, Cache(cache, 0)) for path in sorted(tmp_path.glob("*.tar"))]
    files = OpenShards(2)
    descriptors = lambda: sum(  # noqa: E731
        Path(link).resolve().suffix == ".tar" for link in Path("/proc/self/fd").iterdir() if link.exists()
    )
    before = descriptors()
    for number in (0, 1, 0, 2, 0, 3, 0):
        files.get(number, listed[number])
        assert descriptors() - before <= 2
    assert set(files._files) == {0, 3}


def test_labels_in_json_do_not_need_to_be_small(tmp_path):
    content = json.dumps({"text": "x" * 100_000, "label": 4}).encode()
    write(tmp_path / "x.tar", [("a.png", png(1)), ("a.json", content)])
    assert open_images(str(tmp_path / "x.tar")).classes == ("4",)
