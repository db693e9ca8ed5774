"""The two images of the documentation, drawn from the code: the house and the way of the data.

Enters: the floors that `pyproject.toml` names, the imports of `src/alitok`, and `alitok.run.steps.STEPS`. Leaves:
two SVG images, made anew with every build of the pages, so that they cannot be out of date.

    python docs/draw.py FOLDER      # writes house.svg and steps.svg there, to look at
"""

from __future__ import annotations

import ast
import math
import sys
import textwrap
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import NamedTuple

from alitok.run.steps import STEPS, Step

ROOT = Path(__file__).resolve().parents[1]

_HUES = (210, 175, 140, 95, 45, 25, 0, 330, 285, 250)  # from the ground up
# Alone an image follows the system's colours, on a page those of the page.
_STYLE = """
.drawn { color: #1c2430; font-family: system-ui, sans-serif; max-width: 100%; height: auto; }
@media (prefers-color-scheme: dark) { .drawn { color: #e3e8ee; } }
[data-md-color-scheme] .drawn { color: var(--md-default-fg-color); }
.drawn text { fill: currentColor; font-size: 14px; }
.drawn .ground { fill: #ffffff; }
@media (prefers-color-scheme: dark) { .drawn .ground { fill: #14181f; } }
[data-md-color-scheme] .drawn .ground { fill: var(--md-default-bg-color); }
.drawn .small { font-size: 12px; opacity: 0.75; }
.drawn .name { font-weight: 600; }
.drawn .path { font-family: ui-monospace, monospace; font-size: 12px; }
.drawn .line { fill: none; stroke: currentColor; stroke-opacity: 0.45; stroke-width: 1.4; }
.drawn .tip { fill: currentColor; fill-opacity: 0.6; }
.drawn .rule { stroke: currentColor; stroke-opacity: 0.2; }
"""


@dataclass(frozen=True)
class House:
    """The packages of a project.

    Attributes:
        floors: names of packages, the highest floor first.
        modules: how many modules each has.
        imports: for each pair (importing, imported), how many modules of the one import the other.
    """

    floors: tuple[tuple[str, ...], ...]
    modules: Mapping[str, int]
    imports: Mapping[tuple[str, str], int]

    @property
    def packages(self) -> tuple[str, ...]:
        """All of them, from the top."""
        return tuple(name for floor in self.floors for name in floor)

    def needed(self) -> list[tuple[str, str]]:
        """The imports that do not follow from others, by way of a package in between."""
        return [(high, low) for high, low in self.imports if not self._reached(high, low)]

    def _reached(self, high: str, low: str) -> bool:
        return any(
            (high, between) in self.imports and ((between, low) in self.imports or self._reached(between, low))
            for between in self.packages
            if between not in (high, low)
        )


def read_house(root: Path = ROOT, project: str = "alitok") -> House:
    """The floors as import-linter's contract has them, and the imports as the code has them.

    Imports within functions and for types alone count like all others, as they do for import-linter.
    """
    linter = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = next(contract["layers"] for contract in linter["contracts"] if contract["type"] == "layers")
    floors = tuple(tuple(name.strip() for name in layer.replace(":", "|").split("|")) for layer in layers)
    packages = {name for floor in floors for name in floor}
    modules: Counter[str] = Counter()
    imports: Counter[tuple[str, str]] = Counter()
    source = root / "src" / project
    for path in sorted(source.rglob("*.py")):
        package = path.relative_to(source).parts[0].removesuffix(".py")
        if package in packages:
            modules[package] += 1
            found = {name for name in imported(path, project) if name in packages and name != package}
            imports.update((package, name) for name in found)
    return House(floors, dict(modules), dict(sorted(imports.items())))


def imported(path: Path, project: str) -> set[str]:
    """The packages of `project` that a file imports, by the first part of their names below it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively, which is not read here"
            module = node.module or ""
            names |= {f"{module}.{alias.name}" for alias in node.names} if module == project else {module}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith(f"{project}.")}


class _Box(NamedTuple):
    """Where something stands: its left upper corner and its size."""

    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        return self.x + self.width / 2

    @property
    def bottom(self) -> float:
        return self.y + self.height


def house_svg(house: House) -> str:
    """The floors as a house, and below it all imports as a table."""
    width, left, high, gap = 940, 70, 40, 44
    boxes: dict[str, _Box] = {}
    parts: list[str] = []
    for place, floor in enumerate(house.floors):
        y = 34 + place * (high + gap)
        number = len(house.floors) - 1 - place
        parts.append(_text(8, y + high / 2 + 5, f"floor {number}", "small"))
        slot = (width - left) / len(floor)
        for column, name in enumerate(floor):
            across = min(slot - 24, 210)
            box = _Box(left + slot * (column + 0.5) - across / 2, y, across, high)
            boxes[name] = box
            count = house.modules.get(name, 0)
            what = f"{count} modules" if count != 1 else "1 module"
            parts.append(_rectangle(box, _HUES[number % len(_HUES)], f"alitok.{name}: {what}"))
            parts.append(_text(box.middle, y + high / 2 + 5, name, "name", "middle"))
    lines = [_curve(boxes[high_], boxes[low]) for high_, low in house.needed()]
    top = max(box.bottom for box in boxes.values()) + 50
    table, bottom = _table(house, 150, top)
    said = "Lines: imports that do not follow from others. The table below has all."
    return _svg(width, bottom + 10, [_text(left, 18, said, "small"), *lines, *parts, *table], "The house of alitok")


def _table(house: House, left: float, top: float) -> tuple[list[str], float]:
    """Rows import columns; the number is that of modules that do. Returns the parts and where they end."""
    cell, names = 44, house.packages
    floor_of = {name: len(house.floors) - 1 - place for place, floor in enumerate(house.floors) for name in floor}
    most = max(house.imports.values())
    first = top + 110  # below the slanted names
    parts = [
        _text(left, top, "Modules of a row that import a column; on the diagonal, how many modules it has", "small")
    ]
    for column, name in enumerate(names):
        x = left + cell * (column + 0.5)
        parts.append(f'<text transform="translate({x + 4:.0f} {first - 8:.0f}) rotate(-55)">{escape(name)}</text>')
    for row, importer in enumerate(names):
        y = first + cell * row
        parts.append(_text(left - 10, y + cell / 2 + 5, importer, "name", "end"))
        for column, name in enumerate(names):
            box = _Box(left + cell * column + 1, y + 1, cell - 2, cell - 2)
            count = house.modules.get(name, 0) if importer == name else house.imports.get((importer, name), 0)
            if importer == name:
                parts.append(_rectangle(box, 0, f"{name}: {count} modules", strength=0.0))
            elif count:
                strength = 0.15 + 0.55 * math.log(1 + count) / math.log(1 + most)
                said = f"{importer} imports {name} in {count} of its modules"
                parts.append(_rectangle(box, _HUES[floor_of[name] % len(_HUES)], said, strength))
            if count:
                parts.append(_text(box.middle, y + cell / 2 + 5, str(count), "small", "middle"))
        if row and floor_of[importer] != floor_of[names[row - 1]]:
            end = left + cell * len(names)
            parts.append(f'<line class="rule" x1="{left:.0f}" y1="{y:.0f}" x2="{end:.0f}" y2="{y:.0f}"/>')
    return parts, first + cell * len(names)


def steps_svg(steps: Mapping[str, Step] = STEPS) -> str:
    """The steps of a run, each below those it needs, with what it leaves and what decides it."""
    wide, gap, between = 400, 48, 60
    depth = depths(steps)
    middles: dict[str, float] = {}
    boxes: dict[str, _Box] = {}
    texts: dict[str, list[tuple[str, str]]] = {name: _told(name, step) for name, step in steps.items()}
    y = 16.0
    for level in range(max(depth.values()) + 1):
        row = [name for name in steps if depth[name] == level]
        for place, name in enumerate(row):
            needs = [middles[need] for need in steps[name].needs]
            shift = (place - (len(row) - 1) / 2) * (wide + between)
            middles[name] = (sum(needs) / len(needs) if needs else 470) + shift
        tall = max(22 + 19 * len(texts[name]) for name in row)
        for name in row:
            boxes[name] = _Box(middles[name] - wide / 2, y, wide, tall)
        y += tall + gap
    parts = []
    for name, step in steps.items():
        parts += [_curve(boxes[need], boxes[name], around=depth[name] - depth[need] > 1) for need in step.needs]
    for place, (name, box) in enumerate(boxes.items()):
        parts.append(_rectangle(box, _HUES[place % len(_HUES)], name))
        for line, (kind, text) in enumerate(texts[name]):
            parts.append(_text(box.x + 14, box.y + 24 + 19 * line, text, kind))
    return _svg(940, y - gap + 16, parts, "The steps of a run")


def depths(steps: Mapping[str, Step]) -> dict[str, int]:
    """How many steps, at most, stand between the beginning and each."""
    found: dict[str, int] = {}
    for name, step in steps.items():
        found[name] = max((found[need] + 1 for need in step.needs), default=0)
    return found


def _told(name: str, step: Step) -> list[tuple[str, str]]:
    """What a box says, line by line, each with its class."""
    lines = [("name", step.title)]
    products = step.products or (f"done/{name}.json",)
    lines += [("path", line) for line in _wrapped("→ ", products)]
    return lines + [("small", line) for line in _wrapped("decided by ", _shared(step.settings))]


def _shared(settings: Iterable[str]) -> list[str]:
    """Key paths, where several of one table are named as `table.{a, b}`."""
    tables: dict[str, list[str]] = {}
    for path in settings:
        table, _, key = path.rpartition(".")
        tables.setdefault(table, []).append(key)
    joined = []
    for table, keys in tables.items():
        several = f"{{{', '.join(keys)}}}" if len(keys) > 1 and table.count(".") else None
        joined += [f"{table}.{several}"] if several else [f"{table}.{key}".lstrip(".") for key in keys]
    return joined


def _wrapped(before: str, words: Iterable[str]) -> list[str]:
    text = ", ".join(words)
    return textwrap.wrap(before + text, 54, subsequent_indent="   ") if text else []


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(text)}</text>'


def _rectangle(box: _Box, hue: int, said: str, strength: float = 0.22) -> str:
    colour, place = f"hsl({hue} 70% 50%)", f'x="{box.x:.0f}" y="{box.y:.0f}" rx="6"'
    place = f'{place} width="{box.width:.0f}" height="{box.height:.0f}"'
    return (
        f'<rect class="ground" {place}/>'  # what hides the lines that pass behind
        f'<rect {place} fill="{colour}" fill-opacity="{strength:.2f}" '
        f'stroke="{colour}" stroke-opacity="{min(1, strength * 3):.2f}">'
        f"<title>{escape(said)}</title></rect>"
    )


def _curve(above: _Box, below: _Box, around: bool = False) -> str:
    """From the bottom of one box to the top of another; `around` leaves room for what stands between."""
    x1, y1, x2, y2 = above.middle, above.bottom, below.middle, below.y - 7
    if around and abs(x1 - x2) < 1:  # past the box in between, on its right
        x1 = x2 = above.x + above.width - 30
        out = x1 + 110
    else:
        out = x1
    half = max((y2 - y1) / 2, 12)
    back = out if out != x1 else x2
    path = f"M{x1:.0f} {y1:.0f} C{out:.0f} {y1 + half:.0f} {back:.0f} {y2 - half:.0f} {x2:.0f} {y2:.0f}"
    tip = f'<path class="tip" d="M{x2 - 4:.0f} {y2:.0f} l4 7 l4 -7 z"/>'
    return f'<path class="line" d="{path}"/>{tip}'


def _svg(width: float, height: float, parts: Iterable[str], title: str) -> str:
    inside = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="drawn" role="img" aria-label="{escape(title)}" '
        f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">\n'
        f"<style>{_STYLE}</style>\n{inside}\n</svg>\n"
    )


def drawn() -> dict[str, str]:
    """All images by name."""
    return {"house": house_svg(read_house()), "steps": steps_svg()}


def main() -> None:
    """Write them to the folder that the command line names."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in drawn().items():
        (folder / f"{name}.svg").write_text(image, encoding="utf-8")


if __name__ == "__main__":
    main()
