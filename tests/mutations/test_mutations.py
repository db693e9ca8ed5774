"""Mistakes in the arithmetic are noticed by the tests, and one that was not would be told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")

pytestmark = pytest.mark.slow


def run(*words):
    done = subprocess.run([sys.executable, RUN, *words], capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr


def test_every_mistake_is_noticed():
    status, found, said = run()
    assert found["survived"] == found["untried"] == [], said
    assert found["killed"] == found["changes"] >= 80
    assert status == 0


def test_what_is_not_noticed_or_cannot_be_tried_is_told(tmp_path):
    file, test = "nn/rotary.py", "tests/nn/test_rotary.py::test_a_head_size_not_divisible_by_4_is_rejected"
    listed = [
        ("noticed", file, "if head_size % 4:", "if head_size % 2:", test),
        ("not noticed", file, "prefix + torch.arange(grid)", "torch.arange(grid)", test),
        ("of text that is not there", file, "no such line", "nor this", test),
        ("of text that is there twice", file, "half", "whole", test),
        ("of a test that is not there", file, "BASE = 10_000.0", "BASE = 1.0", "tests/nn/test_rotary.py::test_nothing"),
    ]
    (tmp_path / "changes.py").write_text(f"CHANGES = {listed[:4]}")
    status, found, said = run("--changes", tmp_path / "changes.py")
    assert (status, found["changes"], found["killed"]) == (1, 4, 1)
    assert found["survived"] == ["not noticed"]
    assert found["untried"] == ["of text that is not there", "of text that is there twice"]
    assert "nn/rotary.py: not noticed: survived" in said
    (tmp_path / "changes.py").write_text(f"CHANGES = {listed[4:]}")
    status, found, said = run("--changes", tmp_path / "changes.py")
    assert (status, found["untried"]) == (1, ["of a test that is not there"])
    assert "These tests fail without any change" in said
