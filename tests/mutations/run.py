"""Mutation testing of the arithmetic: breaks one line at a time and runs the test that must fail.

    python tests/mutations/run.py                          # all
    python tests/mutations/run.py --only rotary --verbose  # those with the word in name or file, with pytest's output

Reads `changes.txt`. Prints a line for each change that survived or could not be tried, then one JSON object, and exits
with 1 if there was such a line. No file is changed: a forked process imports the module from the mutated source.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import importlib.util
import io
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from types import CodeType, ModuleType

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # a process that has started threads cannot be forked
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"

ROOT = Path(__file__).parents[2]
# What the tests need beside this project; imported once, before forking.
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
MAX_SECONDS = 60  # CPU time of a test


@dataclass(frozen=True)
class Change:
    """One mutation.

    Attributes:
        name: what is changed, in words.
        file: below `src/alitok`.
        old: source that occurs once.
        new: its replacement.
        test: pytest's name of the test that must fail.
    """

    name: str
    file: str
    old: str
    new: str
    test: str

    @property
    def path(self) -> Path:
        """The mutated file."""
        return ROOT / "src" / "alitok" / self.file

    @property
    def module(self) -> str:
        """The file's import name."""
        return ".".join(("alitok", *Path(self.file).with_suffix("").parts))

    def source(self) -> str | None:
        """The mutated source; None unless `old` occurs exactly once."""
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        return text.replace(self.old, self.new) if text.count(self.old) == 1 and self.old != self.new else None


def read_changes(path: Path) -> list[Change]:
    """The mutations listed in a file like `changes.txt`, which describes its format."""
    changes: list[Change] = []
    file = tests = test = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        depth = len(line) - len(line.lstrip())
        if not line or line.startswith("#"):
            continue
        if depth == 0:
            file, tests = line.split()
        elif depth == 2:
            test = line.strip()
        elif line[4:6] not in ("- ", "+ "):
            changes.append(Change(line.strip(), file, "", "", f"{tests}::{test}"))
        else:
            field = "old" if line[4] == "-" else "new"
            before = getattr(changes[-1], field)
            changes[-1] = replace(changes[-1], **{field: f"{before}\n{line[6:]}" if before else line[6:]})
    return changes


class _Changed(importlib.abc.MetaPathFinder, importlib.machinery.SourceFileLoader):
    """Imports one module from mutated source."""

    def __init__(self, module: str, path: Path, source: str) -> None:
        super().__init__(module, str(path))
        self.source = source

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> object:
        """Of that module only."""
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, fullname: str) -> CodeType:
        """Compiled without a cache."""
        return compile(self.source, self.path, "exec", dont_inherit=True)


def log(text: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def run_tests(tests: Sequence[str], change: Change | None) -> int:
    """Run pytest in this process, with the change if any; returns its exit status."""
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
    """Run tests in a forked process; returns its id."""
    process = os.fork()
    if process:
        return process
    status = 70
    try:
        # Both signals end it; the second is for a test that hangs.
        signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS if change else 10 * MAX_SECONDS)
        signal.alarm(20 * MAX_SECONDS)
        with log.open("w", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
            status = int(run_tests(tests, change))
    finally:
        os._exit(status)


def verdict(status: int) -> str:
    """The outcome of a process, from its wait status."""
    if os.WIFSIGNALED(status):
        slow = os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGALRM)
        return f"its test took more than {MAX_SECONDS} s" if slow else "its test crashed"
    return {0: "survived", 1: "killed"}.get(os.WEXITSTATUS(status), "its test could not run")


def try_all(changes: Sequence[Change], jobs: int, verbose: bool) -> dict[Change, str]:
    """The verdict on each change."""
    found: dict[Change, str] = {}
    running: dict[int, Change] = {}
    with tempfile.TemporaryDirectory() as folder:
        waiting = list(changes)
        while waiting or running:
            while waiting and len(running) < jobs:
                change = waiting.pop(0)
                if change.source() is None:
                    found[change] = "its source does not occur exactly once"
                    continue
                process = forked([change.test], change, Path(folder) / f"{changes.index(change)}.log")
                running[process] = change
            if running:
                process, status = os.wait()
                change = running.pop(process)
                found[change] = verdict(status)
                if verbose or found[change] not in ("killed", "survived"):
                    log((Path(folder) / f"{changes.index(change)}.log").read_text(encoding="utf-8")[-3000:])
                if verbose or found[change] != "killed":
                    log(f"{change.file}: {change.name}: {found[change]} ({change.test})")
    return found


def passing(changes: Sequence[Change]) -> bool:
    """Whether all tests pass without any change."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "log"
        process = forked(list(dict.fromkeys(change.test for change in changes)), None, output)
        passed = os.waitpid(process, 0)[1] == 0
        if not passed:
            log(f"These tests fail without any change:\n{output.read_text(encoding='utf-8')[-3000:]}")
    return passed


def main() -> int:
    """Try the selected changes; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], help="words in the name or file")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    parser.add_argument("--verbose", action="store_true", help="print pytest's output")
    parser.add_argument("--changes", type=Path, default=Path(__file__).with_name("changes.txt"), help="another list")
    options = parser.parse_args()
    began = time.monotonic()
    listed = read_changes(options.changes)
    changes = [each for each in listed if any(word in f"{each.name} {each.file}" for word in options.only)]
    with redirect_stderr(io.StringIO()):
        for library in LIBRARIES:
            importlib.import_module(library)
    found = try_all(changes, options.jobs, options.verbose) if passing(changes) else {}
    survived = [change.name for change in changes if found.get(change) == "survived"]
    untried = [change.name for change in changes if found.get(change) not in ("killed", "survived")]
    result = {
        "changes": len(changes),
        "killed": len(changes) - len(survived) - len(untried),
        "survived": survived,
        "untried": untried,
        "seconds": round(time.monotonic() - began, 1),
    }
    log(json.dumps(result))
    return 1 if survived or untried or not changes else 0


if __name__ == "__main__":
    sys.exit(main())
