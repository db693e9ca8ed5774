"""Locks between processes."""

import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest

from alitok.core.lock import locked

HOLD = """
import sys
from pathlib import Path
from alitok.core.lock import locked
with locked(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock until its input ends."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "a" / "x.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "in\n"
        yield process
        process.stdin.close()


def test_another_process_is_kept_out_until_the_first_lets_go(tmp_path, holder):
    path = tmp_path / "a" / "x.lock"
    with pytest.raises(TimeoutError, match=r"x\.lock"), locked(path, timeout=0.3):
        pytest.fail("two are in")
    holder.stdin.close()
    with locked(path, timeout=60):
        assert holder.wait(60) == 0


def test_a_process_that_is_killed_lets_go(tmp_path, holder):
    path, inside = tmp_path / "a" / "x.lock", []
    with pytest.raises(TimeoutError), locked(path, timeout=0):
        inside.append("while it lived")
    holder.kill()
    with locked(path, timeout=60):
        inside.append("after it died")
    assert inside == ["after it died"]


def test_a_forked_child_does_not_hold_on(tmp_path):
    path = tmp_path / "x.lock"
    with locked(path):
        child = os.fork()
        if not child:
            signal.pause()
            os._exit(0)
    try:
        with locked(path, timeout=1):
            assert os.waitpid(child, os.WNOHANG) == (0, 0)  # the child lives, and has the file open
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_an_error_inside_lets_go(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "x.lock"):
        raise ZeroDivisionError
    with locked(tmp_path / "x.lock", timeout=0):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_locks_keeps_nobody_out(tmp_path, monkeypatch, code):
    def refuse(file, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    inside = []
    with locked(tmp_path / "x.lock", timeout=0):
        inside.append(True)
    assert inside == [True]
