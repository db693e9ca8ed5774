"""Can the tests of the arithmetic fail? Makes mistakes in it on purpose, one at a time, and runs a test on each.

    python tests/mutations/run.py                       # all of them
    python tests/mutations/run.py --only rotary --tell  # whose name or file has such a word, with what the tests said

Enters: `changes.py`, each change with the one test that must notice it. Leaves: a line for each change that was not
noticed or could not be tried, one JSON object on the last line, and status 1 if there was such a line. No file is
changed: a process of its own is given the module with the change in it.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import importlib.util
import io
import json
import os
import runpy
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # a process that has started threads cannot be forked
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"

ROOT = Path(__file__).parents[2]
# What the tests need besides this project; imported once, and there in every process that is forked.
LIBRARIES = (
    "hypothesis",
    "numpy",
    "PIL.Image",
    "pydantic",
    "pytest",
    "rich.console",
    "rich.progress",
    "safetensors.torch",
    "scipy.linalg",
    "scipy.stats",
    "torch",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torch.utils.checkpoint",
)
LONGEST = 60  # seconds of computing for a test


@dataclass(frozen=True)
class Change:
    """A mistake.

    Attributes:
        name: what it does, in words.
        file: below `src/alitok`.
        old: what stands there, once.
        new: what is put in its place.
        test: the one that must fail, as pytest names it.
    """

    name: str
    file: str
    old: str
    new: str
    test: str

    @property
    def path(self) -> Path:
        """The file that it is in."""
        return ROOT / "src" / "alitok" / self.file

    @property
    def module(self) -> str:
        """The name that the file is imported by."""
        return ".".join(("alitok", *Path(self.file).with_suffix("").parts))

    def source(self) -> str | None:
        """The file with the change in it; None where what it changes is not there, or more than once."""
        text = self.path.read_text(encoding="utf-8")
        return text.replace(self.old, self.new) if text.count(self.old) == 1 and self.old != self.new else None


class _Changed(importlib.abc.MetaPathFinder, importlib.machinery.SourceFileLoader):
    """Gives one module with other source than its file has."""

    def __init__(self, module: str, path: Path, source: str) -> None:
        super().__init__(module, str(path))
        self.source = source

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> object:
        """Of that module; of others whoever comes next is asked."""
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, fullname: str) -> CodeType:
        """Compiled anew, whatever is in a cache."""
        return compile(self.source, self.path, "exec", dont_inherit=True)


def say(text: str) -> None:
    """A line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def run_tests(tests: Sequence[str], change: Change | None) -> int:
    """What pytest returns for them, in this process, with the change or without any."""
    import pytest

    sys.path.insert(0, str(ROOT / "src"))
    if change is not None:
        source = change.source()
        assert source is not None
        sys.meta_path.insert(0, _Changed(change.module, change.path, source))
    os.chdir(ROOT)
    places = [str(ROOT / test) for test in tests]
    return pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--tb=short", "--disable-warnings", *places])


def forked(tests: Sequence[str], change: Change | None, log: Path) -> int:
    """The number of a process that runs tests and ends with what pytest returns."""
    process = os.fork()
    if process:
        return process
    status = 70
    try:
        # Both signals end it; the second is for one that waits for something that never comes.
        signal.setitimer(signal.ITIMER_PROF, LONGEST if change else 10 * LONGEST)
        signal.alarm(20 * LONGEST)
        with log.open("w", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
            status = int(run_tests(tests, change))
    finally:
        os._exit(status)


def verdict(status: int) -> str:
    """Of a process that has ended, in a word or a sentence."""
    if os.WIFSIGNALED(status):
        slow = os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGALRM)
        return f"its test took longer than {LONGEST} s" if slow else "its test crashed"
    return {0: "survived", 1: "killed"}.get(os.WEXITSTATUS(status), "its test could not be run")


def try_all(changes: Sequence[Change], jobs: int, tell: bool) -> dict[Change, str]:
    """A verdict for each change."""
    found: dict[Change, str] = {}
    running: dict[int, Change] = {}
    with tempfile.TemporaryDirectory() as folder:
        waiting = list(changes)
        while waiting or running:
            while waiting and len(running) < jobs:
                change = waiting.pop(0)
                if change.source() is None:
                    found[change] = "what it changes is not there, or more than once"
                    continue
                process = forked([change.test], change, Path(folder) / f"{changes.index(change)}.log")
                running[process] = change
            if running:
                process, status = os.wait()
                change = running.pop(process)
                found[change] = verdict(status)
                if tell or found[change] not in ("killed", "survived"):
                    say((Path(folder) / f"{changes.index(change)}.log").read_text(encoding="utf-8")[-3000:])
                if tell or found[change] != "killed":
                    say(f"{change.file}: {change.name}: {found[change]} ({change.test})")
    return found


def passing(changes: Sequence[Change]) -> bool:
    """Whether all tests pass where nothing is changed."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        process = forked(list(dict.fromkeys(change.test for change in changes)), None, log)
        passed = os.waitpid(process, 0)[1] == 0
        if not passed:
            say(f"These tests fail without any change:\n{log.read_text(encoding='utf-8')[-3000:]}")
    return passed


def main() -> int:
    """Try the changes asked for; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], help="words, of which one is in the name or the file")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="at a time")
    parser.add_argument("--tell", action="store_true", help="what each test said")
    parser.add_argument("--changes", type=Path, default=Path(__file__).with_name("changes.py"), help="another list")
    options = parser.parse_args()
    began = time.monotonic()
    listed = runpy.run_path(str(options.changes))["CHANGES"]
    changes = [Change(*each) for each in listed if any(word in f"{each[0]} {each[1]}" for word in options.only)]
    with redirect_stderr(io.StringIO()):
        for library in LIBRARIES:
            importlib.import_module(library)
    found = try_all(changes, options.jobs, options.tell) if passing(changes) else {}
    survived = [change.name for change in changes if found.get(change) == "survived"]
    untried = [change.name for change in changes if found.get(change) not in ("killed", "survived")]
    result = {
        "changes": len(changes),
        "killed": len(changes) - len(survived) - len(untried),
        "survived": survived,
        "untried": untried,
        "seconds": round(time.monotonic() - began, 1),
    }
    say(json.dumps(result))
    return 1 if survived or untried or not changes else 0


if __name__ == "__main__":
    sys.exit(main())
