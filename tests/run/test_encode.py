"""`alitok encode` and `alitok data show` as their commands call them, and an encoding that is killed."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from alitok.apps.data.options import ShowOptions
from alitok.apps.data.show import decode_rows, run_show
from alitok.core.errors import AlitokError
from alitok.data.codes import CodeStore
from alitok.data.sources.opening import open_splits
from alitok.recipes.presets import RECIPES
from alitok.run.encode import run_encode
from alitok.run.options import EncodeOptions
from alitok.tokenizer import Tokenizer

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
CONFIG = replace(RECIPES["digits"].tokenizer, codebook_size=60, code_width=4, stage2=None)


def save_tokenizer(path, config, images, seed=0):
    """Random weights and a codebook of features, so that codes tell images apart."""
    torch.manual_seed(seed)
    tokenizer = Tokenizer(config).eval()
    with torch.no_grad():
        features = tokenizer.encoder(torch.from_numpy(images).float() / 255).flatten(0, 1)
        tokenizer.quantizer.codebook.copy_(features[torch.randperm(len(features))[: config.codebook_size]])
    tokenizer.save_pretrained(path)
    return path


def write_images(root, count=40, broken=()):
    for number in range(count):
        path = root / "abc"[number % 3] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (19, 22, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        if number in broken:
            path.write_bytes(path.read_bytes()[:200])
    return root


@pytest.fixture
def tokenizer(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 16, 16), dtype=np.uint8)
    return save_tokenizer(tmp_path / "tokenizer", CONFIG, images)


def options(tmp_path, **changes):
    given = {"data": str(tmp_path / "images"), "out": tmp_path / "codes", "device": "cpu", **changes}
    return EncodeOptions(**{"tokenizer": tmp_path / "tokenizer", **given})


def files(path):
    return {entry.name: entry.read_bytes() for entry in path.iterdir()}


def test_a_folder_to_a_store_and_back_to_images(tmp_path, tokenizer, capsys):
    write_images(tmp_path / "images")
    run_encode(options(tmp_path, crops="ten"))
    printed = " ".join(capsys.readouterr().out.split())
    assert "40 images x 10 crops = 400 sequences of 20 codes in 1 shard;" in printed
    store = CodeStore(tmp_path / "codes")
    size = sum(len(content) for content in files(tmp_path / "codes").values())
    assert f"{size / 400:,.1f} bytes a sequence, {size / 400 / 40:.3f} x its codes" in printed
    assert (store.head.split, store.head.image_size, store.head.batch_size) == ("all", 16, 256)
    assert store.head.tokenizer_path == str(tokenizer.resolve())

    run_show(tmp_path / "codes", ShowOptions(count=30, seed=1, device="cpu"))
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    shown = [int(words[0]) for words in lines if len(words) == 3 and words[0].isdecimal()]
    assert len(shown) == 3
    for words in lines[:3]:
        assert words[1:] == [store.classes[store.image_labels[int(words[0])]], store.key(int(words[0]))]
    assert "top left; top right; bottom left; bottom right; centre; top left, mirrored" in printed
    # On the sheet stand the decoded crops, enlarged, all of an image in a row.
    model = Tokenizer.from_pretrained(tokenizer)
    with Image.open(tmp_path / "codes.png") as image:
        sheet = np.asarray(image)
    for row, index in enumerate(shown):
        for crop in range(10):
            codes = torch.from_numpy(store.codes([index * 10 + crop]).astype(np.int64))
            with torch.no_grad():
                decoded = (model.decode(codes)[0].clamp(0, 1) * 255).round().numpy()
            top, left = 4 + row * (96 + 14 + 4), 4 + crop * (96 + 4)
            found = sheet[top : top + 96 : 6, left : left + 96 : 6].transpose(2, 0, 1)
            assert np.abs(found - decoded).max() <= 1
            caption = sheet[top + 96 : top + 96 + 14, left : left + 96]
            assert caption.min() < 100
            assert (sheet[top : top + 96, left + 96 : left + 100] == 255).all()


def test_one_crop_of_each_is_shown_in_a_grid(tmp_path, tokenizer, capsys):
    write_images(tmp_path / "images")
    run_encode(options(tmp_path, split="train"))
    store = CodeStore(tmp_path / "codes")
    assert store.images == len(open_splits(str(tmp_path / "images"), 16).train)
    run_show(tmp_path / "codes", ShowOptions(tokenizer=tokenizer, out=tmp_path / "sheet.png", count=12, device="cpu"))
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (8 * 100 + 4, 2 * 114 + 4)
    capsys.readouterr()
    run_show(tmp_path / "codes", ShowOptions(count=1000, device="cpu"))
    assert f"{store.images} decoded sequences of {store.images}" in capsys.readouterr().out
    rows = np.arange(len(store))
    assert decode_rows(store, rows, Tokenizer.from_pretrained(tokenizer)).shape == (len(rows), 3, 16, 16)
    with pytest.raises(AlitokError, match="--count must be at least 1"):
        run_show(tmp_path / "codes", ShowOptions(count=0))


def test_another_tokenizer_than_the_one_in_use_is_refused(tmp_path, tokenizer):
    write_images(tmp_path / "images")
    run_encode(options(tmp_path))
    images = np.random.default_rng(1).integers(0, 256, (20, 3, 16, 16), dtype=np.uint8)
    other = save_tokenizer(tmp_path / "other", CONFIG, images, seed=1)
    with pytest.raises(AlitokError, match="is not the one that encoded"):
        run_show(tmp_path / "codes", ShowOptions(tokenizer=other, device="cpu"))
    with pytest.raises(AlitokError, match="made with another tokenizer"):
        CodeStore(tmp_path / "codes", Tokenizer.from_pretrained(other).codes_fingerprint())
    with pytest.raises(AlitokError, match=r"conflicting settings \(tokenizer\)"):
        run_encode(options(tmp_path, tokenizer=other))
    tokenizer.rename(tmp_path / "moved")
    with pytest.raises(AlitokError, match=r"is missing.*--tokenizer"):
        run_show(tmp_path / "codes", ShowOptions(device="cpu"))
    other.rename(tokenizer)
    with pytest.raises(AlitokError, match="is not the one that encoded"):
        run_show(tmp_path / "codes", ShowOptions(device="cpu"))
    run_show(tmp_path / "codes", ShowOptions(tokenizer=tmp_path / "moved", device="cpu"))


def test_broken_images_are_left_out_and_remembered(tmp_path, tokenizer, capsys, monkeypatch):
    write_images(tmp_path / "images", 120, broken={57})
    run_encode(options(tmp_path, part="1/2"))
    printed = capsys.readouterr().out
    assert "1 broken image is left out" in printed
    assert "a/057.png" in printed

    def never(*arguments):
        raise AssertionError("all images were read before")

    monkeypatch.setattr("alitok.run.encode.verify_images", never)
    run_encode(options(tmp_path, part="2/2"))
    assert "a/057.png" in capsys.readouterr().out
    store = CodeStore(tmp_path / "codes")
    assert store.images == 119
    assert "a/057.png" not in [store.key(image) for image in range(119)]
    assert store.head.left_out[0][0] == "a/057.png"


def test_too_many_broken_images_stop_it(tmp_path, tokenizer):
    write_images(tmp_path / "images", 40, broken={5, 9})
    with pytest.raises(AlitokError, match="2 of 40 images"):
        run_encode(options(tmp_path))
    assert not (tmp_path / "codes").exists()


def test_independent_parts_in_any_order(tmp_path, tokenizer, capsys):
    write_images(tmp_path / "images", 200)
    run_encode(options(tmp_path))
    before = files(tmp_path / "codes")
    assert len([name for name in before if name.startswith("codes")]) == 4
    capsys.readouterr()
    for part in ("3/3", "1/3", "1/3"):
        run_encode(options(tmp_path, out=tmp_path / "parts", part=part))
        assert "the store is complete when all parts are" in capsys.readouterr().out
        with pytest.raises(AlitokError, match="unfinished"):
            CodeStore(tmp_path / "parts")
    run_encode(options(tmp_path, out=tmp_path / "parts", part="2/3"))
    assert files(tmp_path / "parts") == before
    capsys.readouterr()
    run_encode(options(tmp_path, out=tmp_path / "parts"))
    assert "nothing to do" in " ".join(capsys.readouterr().out.split())
    run_encode(options(tmp_path, out=tmp_path / "parts", crops="flip", fresh=True))
    assert CodeStore(tmp_path / "parts").crops == 2


@pytest.mark.parametrize(
    ("changes", "printed"),
    [
        ({"part": "0/2"}, "write it as i/n"),
        ({"part": "3/2"}, "write it as i/n"),
        ({"part": "one"}, "write it as i/n"),
        ({"part": "1/2", "fresh": True}, "delete what the other parts made"),
        ({"batch_size": 0}, "--batch-size must be at least 1"),
        ({"workers": -1}, "--workers at least 0"),
        ({"tokenizer": "nothing"}, "not a directory with a saved model"),
        ({"out": "images"}, "is not empty and is not a code store"),
        ({"out": "images", "fresh": True}, "is not empty and is not a code store"),
    ],
)
def test_an_impossible_request_is_rejected(tmp_path, tokenizer, changes, printed):
    write_images(tmp_path / "images")
    before = len(list((tmp_path / "images").rglob("*")))
    changes = {key: tmp_path / value if key in ("tokenizer", "out") else value for key, value in changes.items()}
    with pytest.raises(AlitokError, match=printed):
        run_encode(options(tmp_path, **changes))
    assert len(list((tmp_path / "images").rglob("*"))) == before


def command(*words, processes=1):
    start = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    return [sys.executable, *start, "-m", "alitok", "encode", *map(str, words), "--device", "cpu"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Where a tokenizer of digits is, and the store that one process makes with it when nobody disturbs it."""
    pytest.importorskip("sklearn")
    root = tmp_path_factory.mktemp("digits")
    digits = open_splits("digits", 16).train
    images = np.stack([digits.read(index, None) for index in range(50)])
    save_tokenizer(root / "tokenizer", CONFIG, images)
    words = ["--tokenizer", root / "tokenizer", "--data", "digits", "--batch-size", 1]  # slow enough to be caught
    subprocess.run(command(*words, "--out", root / "whole"), env=ENVIRONMENT, check=True, capture_output=True)
    codes = CodeStore(root / "whole").codes(range(1797))
    assert len(np.unique(codes)) > 20
    return words, root / "whole"


def children(number):
    """A process and all below it."""
    found = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in found.splitlines()]
    family = [number]
    for parent in family:
        family += [child for child, above in pairs if above == parent]
    return family


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "processes", "workers"),
    [(signal.SIGKILL, 1, 0), (signal.SIGKILL, 2, 0), (signal.SIGTERM, 1, 2), (signal.SIGTERM, 2, 0)],
)
def test_killed_and_started_again_it_ends_with_the_same_bytes(tmp_path, unbroken, number, processes, workers):
    words, whole = unbroken
    out = tmp_path / "codes"
    start = command(*words, "--out", out, "--workers", workers, processes=processes)
    process = subprocess.Popen(start, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until = time.monotonic() + 120
    while not list(out.glob("shard-*.json")) and time.monotonic() < until:
        time.sleep(0.001)
    if number == signal.SIGKILL:  # all at once, as when a machine goes
        for member in reversed(children(process.pid)):
            os.kill(member, number)
    else:
        process.send_signal(number)
    printed = process.communicate(timeout=120)[0]
    if number == signal.SIGTERM and processes == 1:
        assert process.returncode == 0, printed
        assert "Traceback" not in printed
        assert not list(out.glob(".*.part"))
    finished = {path.name.removeprefix("shard-").removesuffix(".json") for path in out.glob("shard-*.json")}
    assert finished
    assert not (out / "manifest.json").exists(), "it was killed too late to prove anything"
    products = [path for kind in ("codes", "labels", "keys") for path in out.glob(f"{kind}-*")]
    kept = {path.name: path.stat() for path in products if path.name.split("-")[1][:5] in finished}
    assert len(kept) == 3 * len(finished)

    with pytest.raises(AlitokError, match="unfinished"):
        CodeStore(out)
    subprocess.run(start, env=ENVIRONMENT, check=True, capture_output=True, timeout=300)
    for name, before in kept.items():
        after = (out / name).stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns), f"{name} was written again"
    assert files(out) == files(whole)
