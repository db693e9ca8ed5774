"""The tests of the arithmetic kill all listed mutations, and the runner reports those that survive."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")
LISTED = """
nn/rotary.py tests/nn/test_rotary.py
  test_a_head_size_not_divisible_by_4_is_rejected
    killed
    - if head_size % 4:
    + if head_size % 2:
    survives
    - prefix + torch.arange(grid)
    + torch.arange(grid)
    source that does not exist
    - no such line
    + nor this
    source that exists twice
    - half
    + whole
"""
NO_TEST = """
nn/rotary.py tests/nn/test_rotary.py
  test_nothing
    test that does not exist
    - BASE = 10_000.0
    + BASE = 1.0
"""

pytestmark = pytest.mark.slow


def run(*words):
    done = subprocess.run([sys.executable, RUN, *words], capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr


def test_every_mutation_is_killed():
    status, found, output = run()
    assert found["survived"] == found["untried"] == [], output
    assert found["killed"] == found["changes"] >= 80
    assert status == 0


def test_survivors_and_untried_mutations_are_reported(tmp_path):
    (tmp_path / "changes.txt").write_text(LISTED)
    status, found, output = run("--changes", tmp_path / "changes.txt")
    assert (status, found["changes"], found["killed"]) == (1, 4, 1)
    assert found["survived"] == ["survives"]
    assert found["untried"] == ["source that does not exist", "source that exists twice"]
    assert "nn/rotary.py: survives: survived" in output
    (tmp_path / "changes.txt").write_text(NO_TEST)
    status, found, output = run("--changes", tmp_path / "changes.txt")
    assert (status, found["untried"]) == (1, ["test that does not exist"])
    assert "These tests fail without any change" in output
