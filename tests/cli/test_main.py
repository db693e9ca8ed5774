"""The `alitok` command, in a new process where that matters."""

import dataclasses
import errno
import json
import os
import re
import subprocess
import sys

import pytest

from alitok.cli import app
from alitok.core.errors import AlitokError


def alitok(*arguments, **environment):
    command = [sys.executable, "-c", "from alitok.cli import main; main()", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200", **environment}
    )


def loaded_modules(code):
    script = f"import sys; {code}; print(' '.join(sys.modules))"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


HEAVY = {"torch", "numpy", "PIL", "sklearn", "skimage", "matplotlib", "pydantic"}


def test_import_and_help_load_no_heavy_modules():
    assert not HEAVY & loaded_modules("import alitok")
    assert not HEAVY & loaded_modules(
        "import alitok.cli; alitok.cli.app.meta(['--help'], result_action='return_value')"
    )


def test_public_names_are_imported_lazily():
    import alitok

    for name in alitok.__all__:
        assert getattr(alitok, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = alitok.Nothing


def test_help_and_version():
    assert "demo" in alitok("--help").stdout
    assert alitok("--version").stdout.strip() == "0.1.0"
    text = alitok("demo", "--help").stdout
    assert all(option in text for option in ("--data", "--out", "--fresh", "--device", "--set", "--debug"))


def test_options_of_fit_and_demo_reach_the_run(monkeypatch):
    seen = []
    monkeypatch.setattr("alitok.run.fit.run_fit", lambda source, options, **more: seen.append((source, options)))
    options = ["--out", "x", "--seed", "3", "--fresh", "--device", "cpu", "--config", "a.toml"]
    options += ["--set", "a=1", "b=2", "--set", "c=3"]
    for command in (["fit", "digits", "--dry-run"], ["demo"], ["fit", "y"]):
        with pytest.raises(SystemExit) as left:
            app.meta([*command, *(options if command[1:] != ["y"] else [])])
        assert left.value.code in (None, 0)
    (source, fit), (builtin, demo), (_, plain) = seen
    assert (source, fit) == (builtin, dataclasses.replace(demo, dry_run=True))
    assert (source, demo.dry_run) == ("digits", False)
    assert (str(fit.out), str(fit.config), fit.overrides) == ("x", "a.toml", ("a=1", "b=2", "c=3"))
    assert (fit.seed, fit.fresh, fit.device) == (3, True, "cpu")
    assert (plain.seed, plain.fresh, plain.device, plain.config, plain.overrides) == (None, False, "auto", None, ())
    assert plain.out is None


def test_the_table_of_models_fits_80_columns(monkeypatch, capsys):
    from alitok.cli import models

    monkeypatch.setattr(models, "_WIDTH", 80)
    with pytest.raises(SystemExit):
        app.meta(["models"])
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "alitok-256-v1-XL 256     32  1280    16   273 13/1.4 662,141,696   1.35 not yet" in text


def test_models_as_a_table_and_as_json(capsys):
    table = alitok("models").stdout
    assert "389,899,308" in table
    assert re.search(r"^alitok-256-XL +256 +32 +1280 .* 13/1.4  662,141,696 +1.28 +not yet$", table, re.MULTILINE)
    with pytest.raises(SystemExit):
        app.meta(["models", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert rows["alitok-256-v1"]["parameters"] == 389_899_308
    assert rows["alitok-256-XL"]["guidance_scale"] == 13


def test_convert_reports_errors(tmp_path, capsys):
    for arguments, words in (
        (["released", "--out", tmp_path / "o"], "nothing to convert"),
        (["released", "--tokenizer", tmp_path / "x.pth", "--out", tmp_path / "o"], "does not exist; check the path"),
        (["to-released", tmp_path, "--out", tmp_path / "o"], "holds neither"),
    ):
        with pytest.raises(SystemExit) as left:
            app.meta(["convert", *map(str, arguments)])
        assert (left.value.code, words in " ".join(capsys.readouterr().err.split())) == (2, True)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dmo"], ["dmo", "demo"]),
        (["demo", "--dat", "digits"], ["--dat", "--data"]),
        (["demo", "--device", "tpu"], ["tpu", "cpu"]),
        (["demo", "--set", "stage1.phases.main.stepz=5"], ["main.stepz'; did you mean 'stage1.phases.main.steps'"]),
        (["demo", "--set", "stage1.phases.0.steps=many"], ["stage1.phases.main.steps", "many"]),
        (["demo", "--set", "stage1.phases.0.steps=0"], ["steps must be at least 1"]),
        (["demo", "--set", "tokenizer.image_size=18"], ["18 must be a multiple of patch_size 4"]),
        (["demo", "--set", "generator_size.width=50"], ["width 50"]),
        (["demo", "--set", "tokenizer.encoder.heads=5"], ["width 64 is not divisible by 5 heads"]),
        (["demo", "--set", "tokenizer.stage1.width=-64"], ["width must be at least 1"]),
        (["demo", "--set", "tokenizer.codebook_size=100000"], ["65536"]),
        (["demo", "--seed", "18446744073709551616"], ["seed", "18446744073709551616"]),
        (["demo", "--data", ""], ["digits"]),
        (["demo", "--config", "none.toml"], ["none.toml"]),
        (["demo", "--data", "no/such/folder"], ["no/such/folder", "digits", "photos"]),
    ],
)
def test_a_wrong_argument_is_one_message_without_a_traceback(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.setenv("COLUMNS", "200")
    out = ["--out", str(tmp_path / "out")] if arguments[0] == "demo" else []
    with pytest.raises(SystemExit) as left:
        app.meta([*arguments, *out])
    assert left.value.code not in (0, 1)
    message = "".join(capsys.readouterr())
    assert all(word in message for word in words)
    assert "Traceback" not in message
    assert not (tmp_path / "out").exists()


def test_a_wrong_setting_exits_with_status_2(tmp_path):
    result = alitok("demo", "--set", "stage1.phases.0.steps=0", "--out", tmp_path / "out")
    assert result.returncode == 2
    assert result.stderr.startswith("alitok: ")
    assert "Traceback" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (KeyboardInterrupt("stage1 stopped at step 3"), 130, "Interrupted (stage1 stopped at step 3)"),
        (OSError(errno.ENOSPC, "No space left", "/x/y"), 2, "The disk is full (/x/y)"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 2, "Permission denied (/x/y)"),
        (AlitokError("That is wrong; do this."), 2, "That is wrong; do this."),
        (RuntimeError("strange"), 1, "Unexpected RuntimeError: strange"),
    ],
)
def test_every_error_is_one_message_and_a_status(monkeypatch, capsys, error, status, words):
    def fail(source, options, *, command):
        raise error

    monkeypatch.setattr("alitok.run.fit.run_fit", fail)
    with pytest.raises(SystemExit) as left:
        app.meta(["demo"])
    assert left.value.code == status
    message = capsys.readouterr().err
    assert words in message
    assert message.startswith("alitok: ")
    assert "Traceback" not in message


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left", "/x/y")])
def test_the_advice_to_rerun_does_not_start_over(monkeypatch, capsys, error):
    def fail(source, options, *, command):
        raise error

    monkeypatch.setattr("alitok.run.fit.run_fit", fail)
    for fresh in ((), ("--fresh",)):
        with pytest.raises(SystemExit):
            app.meta(["demo", *fresh])
        assert ("rerun the same command without --fresh" in capsys.readouterr().err) == bool(fresh)


def test_debug_shows_the_traceback(tmp_path):
    result = alitok("demo", "--data", "no/such/folder", "--out", tmp_path / "out", "--debug")
    assert result.returncode != 0
    assert "Traceback" in result.stderr
