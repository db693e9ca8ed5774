"""The command as a user starts it, each time in a new process."""

import os
import subprocess
import sys

import pytest


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


def test_import_and_help_load_nothing_heavy():
    assert not HEAVY & loaded_modules("import alitok")
    assert not HEAVY & loaded_modules(
        "import alitok.cli; alitok.cli.app.meta(['--help'], result_action='return_value')"
    )


def test_public_names_are_found_when_asked_for():
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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dmo"], ["dmo", "demo"]),
        (["demo", "--dat", "digits"], ["--dat", "--data"]),
        (["demo", "--device", "tpu"], ["tpu", "cpu"]),
        (["demo", "--set", "stage1.loop.stepz=5"], ["stage1.loop.stepz", "stage1.loop.steps"]),
        (["demo", "--set", "stage1.loop.steps=many"], ["stage1.loop.steps", "many"]),
        (["demo", "--set", "stage1.loop.steps=0"], ["steps must be at least 1"]),
        (["demo", "--set", "tokenizer.image_size=18"], ["18 is not divisible by patch_size 4"]),
        (["demo", "--config", "none.toml"], ["none.toml"]),
        (["demo", "--data", "no/such/folder"], ["no/such/folder", "digits", "photos"]),
    ],
)
def test_a_wrong_word_ends_in_one_clear_message_and_no_traceback(tmp_path, arguments, words):
    out = ["--out", tmp_path / "out"] if arguments[0] == "demo" else []
    result = alitok(*arguments, *out)
    assert result.returncode not in (0, 1)
    message = result.stdout + result.stderr
    assert all(word in message for word in words)
    assert "Traceback" not in message
    assert not (tmp_path / "out").exists()


def test_debug_shows_the_traceback(tmp_path):
    result = alitok("demo", "--data", "no/such/folder", "--out", tmp_path / "out", "--debug")
    assert result.returncode != 0
    assert "Traceback" in result.stderr
