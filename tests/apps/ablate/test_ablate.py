"""A whole ablation: its cells, what it rejects, and resuming after it was killed."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alitok.apps.ablate.ablate import cells_of, run_ablation
from alitok.apps.ablate.cell import Cell, read_finished, read_preview
from alitok.apps.ablate.options import AblateOptions
from alitok.core.errors import AlitokError
from alitok.recipes.ablation import ABLATION_PRESETS

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TINY = ABLATION_PRESETS["tiny"]
FEW_STEPS = (
    "tokenizer_steps=4",
    "generator_steps=4",
    "stage2_steps=4",
    "samples=20",
    "width=16",
    "layers=1",
    "heads=2",
    "channels=4",
    "codebook_size=16",
    "generator.layers=1",
    "generator.width=32",
)


def options(tmp_path, **changes):
    given = {"data": "digits", "out": tmp_path / "out", "overrides": FEW_STEPS, "device": "cpu", "parallel": 1}
    return AblateOptions(**{**given, **changes})


def names(given, preset=TINY):
    return [cell.name for cell in cells_of(given, preset)]


def test_every_arm_is_trained_once_and_two_with_several_codebook_sizes(tmp_path):
    assert names(options(tmp_path)) == [
        *(f"{arm}-64-seed0" for arm in ("A", "CE", "B", "C", "D", "F", "F-", "V")),
        *(f"{arm}-{size}-seed0" for arm in "AB" for size in (32, 128)),
    ]
    twice = names(options(tmp_path, seeds=2))
    assert len(twice) == len(set(twice)) == 24
    assert twice[:12] == names(options(tmp_path))  # a whole table first


def test_arms_that_others_need_are_added(tmp_path):
    assert names(options(tmp_path, arms=("F",), codebook_sizes=())) == ["D-64-seed0", "F-64-seed0"]
    assert names(options(tmp_path, arms=("D",), codebook_sizes=(), longer=True)) == ["D-64-seed0", "E-64-seed0"]
    assert names(options(tmp_path, arms=("B",), codebook_sizes=(64, 256))) == ["B-64-seed0", "B-256-seed0"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ("A", "Z")}, "There is no arm 'Z'; choose among: A, CE, B,"),
        ({"seeds": 0}, "--seeds must be at least 1, not 0"),
        ({"parallel": 0}, "--parallel must be at least 1, not 0"),
        ({"codebook_sizes": (1,)}, "A codebook has 2 to 65536 entries, not 1"),
        ({"preset": "huge"}, "There is no preset 'huge'; choose one of: tiny, small"),
        ({"overrides": ("width=none",)}, "width"),
        ({"overrides": ("widht=3",)}, "widht"),
        ({"data": "nowhere"}, "nowhere"),
    ],
)
def test_wrong_options_are_rejected_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(AlitokError, match=message):
        run_ablation(options(tmp_path, **changes), command="alitok ablate")
    assert not (tmp_path / "out").exists()


def test_a_directory_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(AlitokError, match="is not an alitok ablate directory; give a new or empty one"):
        run_ablation(options(tmp_path), command="alitok ablate")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_what_could_not_be_reported_is_not_begun(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("scipy", "jinja2") else find(name))
    with pytest.raises(AlitokError, match=r"An ablation needs scipy, jinja2; .*pip install 'alitok\[eval\]'"):
        run_ablation(options(tmp_path), command="alitok ablate")
    assert not (tmp_path / "out").exists()


def test_torchrun_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(AlitokError, match="starts its own processes"):
        run_ablation(options(tmp_path), command="alitok ablate")


def timeless(numbers):
    """Without what varies from run to run."""
    return replace(numbers, tokenizer_seconds=0.0, generator_seconds=0.0)


@pytest.mark.slow
def test_a_whole_ablation_and_more_seeds_added_later(tmp_path, capsys):
    given = options(tmp_path, arms=("A", "F", "V"), codebook_sizes=(8,), parallel=2)
    ablation = run_ablation(given, command="alitok ablate --data digits")
    assert [cell.key for cell in ablation.cells] == [
        *((arm, 16, 0) for arm in ("A", "D", "F", "V")),
        ("A", 8, 0),
    ]
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} >= {"ablation.json", "table.md", "plot.svg", "report.html", "cells"}
    printed = " ".join(capsys.readouterr().out.split())
    assert "5 cells of 1,438 training images at 16 px, 2 at a time" in printed
    first, second = (read_finished(out / "cells" / f"{arm}-16-seed0") for arm in "DF")
    assert (first.bits, first.accuracy) == (second.bits, second.accuracy)  # the same codes and generator
    assert first.image_psnr != second.image_psnr
    assert second.tokenizer_seconds > first.tokenizer_seconds
    for numbers in ablation.cells:
        assert numbers.bits == pytest.approx(np.mean(numbers.image_bits), rel=1e-9)
        assert numbers.psnr == pytest.approx(np.mean(numbers.image_psnr), rel=1e-5)
        assert len(numbers.image_psnr) == 359
    originals, reconstructions = read_preview(out / "cells" / "F-16-seed0")
    assert originals.shape == reconstructions.shape == (12, 3, 16, 16)

    before = (out / "cells" / "A-16-seed0" / "cell.json").stat().st_mtime_ns
    more = run_ablation(replace(given, seeds=2, arms=("A",), codebook_sizes=()), command="alitok ablate")
    assert [cell.key for cell in more.cells] == [("A", 16, 0), ("A", 16, 1)]
    assert (out / "cells" / "A-16-seed0" / "cell.json").stat().st_mtime_ns == before
    assert more.cells[0] == ablation.cells[0]
    with pytest.raises(AlitokError, match=r"conflicting settings: sizes.width \(16, now 32\)"):
        run_ablation(replace(given, overrides=(*FEW_STEPS, "width=32")), command="alitok ablate")

    alone = replace(given, out=tmp_path / "alone", arms=("A",), codebook_sizes=(), parallel=1)
    assert timeless(run_ablation(alone, command="alitok ablate").cells[0]) == timeless(ablation.cells[0])


@pytest.mark.slow
def test_cells_with_a_perceptual_term_compare_images_in_one_network(tmp_path, capsys):
    given = options(
        tmp_path, arms=("A", "B"), codebook_sizes=(), overrides=(*FEW_STEPS, "perceptual=0.5", "feature_steps=3")
    )
    with_it = run_ablation(given, command="alitok ablate --data digits")
    cells = tmp_path / "out" / "cells"
    weights = [
        (place / "features/network/weights.safetensors").read_bytes() for place in cells.iterdir() if place.is_dir()
    ]
    assert len(weights) == 3  # beside the cells, and in each
    assert len(set(weights)) == 1
    assert capsys.readouterr().out.count("Feature network, 3 steps") == 1
    assert all("local" in (cells / f"{arm}-16-seed0" / "stage1" / "metrics.jsonl").read_text() for arm in "AB")
    without = run_ablation(
        replace(given, out=tmp_path / "without", overrides=FEW_STEPS), command="alitok ablate --data digits"
    )
    assert not (tmp_path / "without/cells/features").exists()
    assert [cell.psnr for cell in with_it.cells] != [cell.psnr for cell in without.cells]


@pytest.mark.slow
def test_a_cell_that_fails_does_not_stop_the_others(tmp_path):
    given = options(tmp_path, arms=("A", "B"), codebook_sizes=())
    place = tmp_path / "out" / "cells" / "A-16-seed0"
    place.mkdir(parents=True)
    (place / "mine.txt").write_text("in the way")
    (tmp_path / "out" / "ablation.toml").write_text("")
    with pytest.raises(AlitokError, match=r"conflicting settings: .*sizes"):
        run_ablation(given, command="alitok ablate")
    (tmp_path / "out" / "ablation.toml").unlink()
    aside = place.rename(tmp_path / "aside")
    place.parent.rmdir()
    run_ablation(replace(given, arms=("B",)), command="alitok ablate")
    aside.rename(place)
    with pytest.raises(
        AlitokError, match=r"1 of 2 trainings failed[\s\S]*A-16-seed0: .*is not an alitok run directory"
    ):
        run_ablation(given, command="alitok ablate")
    ablation = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert [cell["arm"] for cell in ablation["cells"]] == ["B"]


def processes_of(parent):
    """The ids of the child processes of a process."""
    listed = subprocess.run(["ps", "--ppid", str(parent), "-o", "pid="], capture_output=True, text=True, check=False)
    return [int(number) for number in listed.stdout.split()]


def command(out):
    steps = [step if step != "tokenizer_steps=4" else "tokenizer_steps=60" for step in FEW_STEPS]
    words = ["--data", "digits", "--arms", "A", "B", "--codebook-sizes", "16", "--parallel", "2", "--device", "cpu"]
    return [sys.executable, "-m", "alitok", "ablate", *words, "--out", str(out), "--set", *steps]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The cells of an ablation that was not interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run = subprocess.run(command(out), env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return out / "cells"


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_ablation_leaves_no_process_and_resumes_to_the_same_numbers(tmp_path, whole, by):
    running = subprocess.Popen(command(tmp_path / "out"), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    cells = tmp_path / "out" / "cells"
    wait_until(lambda: (cells / "A-16-seed0" / "stage1" / "metrics.jsonl").exists())
    children = processes_of(running.pid)
    assert children
    running.send_signal(by)
    running.wait(90)
    assert running.returncode == {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 0}[by]
    wait_until(lambda: not any(Path(f"/proc/{child}/cmdline").exists() for child in children))
    again = subprocess.run(command(tmp_path / "out"), env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    for arm in "AB":
        name = Cell(arm, 16, 0).name
        assert timeless(read_finished(cells / name)) == timeless(read_finished(whole / name))


def wait_until(true, seconds=120):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
