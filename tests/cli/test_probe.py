"""The options of `alitok probe` and `alitok ablate` reach the work, and errors are one sentence."""

from pathlib import Path

import pytest

from alitok.apps.ablate import ablate
from alitok.apps.ablate.options import AblateOptions
from alitok.apps.probe import probe
from alitok.cli import app


@pytest.fixture
def calls(monkeypatch):
    """The options that the work was called with."""
    found = []
    for module, name in ((probe, "run_probe"), (ablate, "run_ablation")):
        monkeypatch.setattr(module, name, lambda options, *, command: found.append((options, command)))
    return found


def start(*words):
    with pytest.raises(SystemExit) as left:
        app.meta([*words])
    return left.value.code


def test_all_options_of_a_probe(calls):
    words = "--tokenizer a.b:c --data d --generator g --images 7 --out o --image-size 64 --grid 8 --per-position 5"
    assert start("probe", *words.split(), "--seed", "3", "--batch-size", "9", "--device", "cpu") in (None, 0)
    ((options, command),) = calls
    assert (options.tokenizer, options.data, options.generator, options.out) == ("a.b:c", "d", "g", Path("o"))
    assert (options.images, options.image_size, options.grid, options.per_position) == (7, 64, 8, 5)
    assert (options.seed, options.batch_size, options.device) == (3, 9, "cpu")
    assert command.split()[0] == "alitok"


def test_the_defaults_of_a_probe(calls):
    assert start("probe", "--tokenizer", "t", "--data", "digits") in (None, 0)
    ((options, _),) = calls
    assert (options.generator, options.images, options.out, options.seed) == (None, None, None, 0)


def test_all_options_of_an_ablation(calls):
    words = "--data d --out o --preset small --seeds 2 --arms A F- --codebook-sizes 8 16 --longer --parallel 3"
    assert start("ablate", *words.split(), "--device", "cpu", "--set", "samples=1", "width=2") in (None, 0)
    ((options, _),) = calls
    assert options == AblateOptions(
        data="d",
        out=Path("o"),
        preset="small",
        seeds=2,
        arms=("A", "F-"),
        codebook_sizes=(8, 16),
        longer=True,
        parallel=3,
        device="cpu",
        overrides=("samples=1", "width=2"),
    )


def test_help_warns_that_a_module_is_run(capsys):
    assert start("probe", "--help") in (None, 0)
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "That module is imported: its code is run" in text


def test_an_error_is_one_sentence(tmp_path, capsys):
    words = "--tokenizer", "no_such_module_here:x", "--data", "digits", "--out", str(tmp_path / "o")
    assert start("probe", *words) == 2
    printed = capsys.readouterr().err
    assert "There is no Python module no_such_module_here" in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "o").exists()
