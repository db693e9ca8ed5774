"""What the tests run of each package, as a table: lines, and branches both ways.

    make coverage                                    # runs all tests, with the processes that they start
    python tests/coverage_table.py                   # the table of what was measured last
    python tests/coverage_table.py --files nn train  # the modules of two packages, with the lines that no test runs

Enters: `.coverage`, as `coverage combine` leaves it. Lines that only a GPU, a service of its own or a library that is
not installed would reach are among those that are missing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import coverage
from rich.console import Console
from rich.table import Table

PACKAGE = Path("src", "alitok")
SUMS = ("num_statements", "missing_lines", "num_branches", "covered_branches")


def measured() -> dict[str, dict[str, Any]]:
    """What coverage knows of each module, by its path below the package."""
    found = coverage.Coverage()
    found.load()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        found.json_report(outfile=str(report))
        files = json.loads(report.read_text(encoding="utf-8"))["files"]
    inside = {Path(name): file for name, file in files.items() if Path(name).is_relative_to(PACKAGE)}
    return {name.relative_to(PACKAGE).as_posix(): file for name, file in sorted(inside.items())}


def rooms(modules: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, int]]]:
    """The sums of each package, then those of all; modules beside the packages are one of them, `.`."""
    totals: dict[str, dict[str, int]] = {}
    for name, file in modules.items():
        room = name.split("/")[0] if "/" in name else "."
        for part in (room, "all"):
            sums = totals.setdefault(part, dict.fromkeys(SUMS, 0))
            for key in SUMS:
                sums[key] += file["summary"][key]
    totals["all"] = totals.pop("all", dict.fromkeys(SUMS, 0))  # last
    yield from totals.items()


def row(name: str, sums: Mapping[str, int]) -> tuple[str, ...]:
    """Of the table."""
    lines, missing, branches = sums["num_statements"], sums["missing_lines"], sums["num_branches"]
    return (
        name,
        f"{lines:,}",
        f"{missing:,}",
        f"{1 - missing / lines:.1%}" if lines else "",
        f"{sums['covered_branches'] / branches:.1%}" if branches else "",
    )


def table(modules: Mapping[str, Mapping[str, Any]], shown: list[str]) -> Table:
    """Packages, or the modules of those that are shown."""
    if not shown:
        drawn = Table("package", "lines", "not run", "run", "branches", box=None)
        for name, sums in rooms(modules):
            drawn.add_row(*row(name, sums))
        return drawn
    drawn = Table("module", "lines", "not run", "run", "branches", "which", box=None)
    for name, file in modules.items():
        if name.split("/")[0] in shown:
            drawn.add_row(*row(name, file["summary"]), spans(file["missing_lines"]))
    return drawn


def spans(lines: list[int]) -> str:
    """3, 4, 5, 9 as "3-5, 9"."""
    found: list[list[int]] = []
    for line in lines:
        if found and line == found[-1][1] + 1:
            found[-1][1] = line
        else:
            found.append([line, line])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", nargs="+", default=[], metavar="PACKAGE", help="modules instead of packages")
    options = parser.parse_args()
    Console().print(table(measured(), options.files))


if __name__ == "__main__":
    main()
