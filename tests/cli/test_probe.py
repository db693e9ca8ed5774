"""The words of `alitok probe` reach the work, and its faults are told in a sentence."""

from pathlib import Path

import pytest

from alitok.apps.probe import probe as workflow
from alitok.cli import app


@pytest.fixture
def asked(monkeypatch):
    found = []
    monkeypatch.setattr(workflow, "run_probe", found.append)
    return found


def start(*words):
    with pytest.raises(SystemExit) as left:
        app.meta(["probe", *words])
    return left.value.code


def test_all_options(asked):
    words = "--tokenizer a.b:c --data d --generator g --images 7 --out o --image-size 64 --grid 8 --per-place 5"
    assert start(*words.split(), "--seed", "3", "--batch-size", "9", "--device", "cpu") in (None, 0)
    (options,) = asked
    assert (options.tokenizer, options.data, options.generator, options.out) == ("a.b:c", "d", "g", Path("o"))
    assert (options.images, options.image_size, options.grid, options.per_place) == (7, 64, 8, 5)
    assert (options.seed, options.batch_size, options.device) == (3, 9, "cpu")
    assert options.command.split()[0] == "alitok"


def test_what_is_left_out(asked):
    assert start("--tokenizer", "t", "--data", "digits") in (None, 0)
    (options,) = asked
    assert (options.generator, options.images, options.out, options.seed) == (None, None, None, 0)
    assert options.place == Path("runs/probe-t-digits")


def test_help_says_that_a_module_is_run(capsys):
    assert start("--help") in (None, 0)
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "That module is imported: its code is run" in text


def test_a_fault_is_one_sentence(tmp_path, capsys):
    assert start("--tokenizer", "no_such_module_here:x", "--data", "digits", "--out", str(tmp_path / "o")) == 2
    told = capsys.readouterr().err
    assert told.startswith("alitok: There is no Python module no_such_module_here")
    assert "Traceback" not in told
    assert not (tmp_path / "o").exists()
