"""The figures of the documentation: the packages with their imports, the steps of a run, and the method.

The first two are generated from the code with every build of the pages. The third is `docs/images/method.svg`, which
the README shows:

    python docs/draw.py FOLDER      # writes house.svg, steps.svg and method.svg there
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

_HUES = (210, 175, 140, 95, 45, 25, 0, 330, 285, 250)  # from the lowest floor up
# A file on its own follows the system's color scheme, a figure on a page that of the page.
_STYLE = """
.figure { color: #1c2430; font-family: system-ui, sans-serif; max-width: 100%; height: auto; }
@media (prefers-color-scheme: dark) { .figure { color: #e3e8ee; } }
[data-md-color-scheme] .figure { color: var(--md-default-fg-color); }
.figure text { fill: currentColor; font-size: 14px; }
.figure .ground { fill: #ffffff; }
@media (prefers-color-scheme: dark) { .figure .ground { fill: #14181f; } }
[data-md-color-scheme] .figure .ground { fill: var(--md-default-bg-color); }
.figure .small { font-size: 12px; opacity: 0.75; }
.figure .name { font-weight: 600; }
.figure .path { font-family: ui-monospace, monospace; font-size: 12px; }
.figure .line { fill: none; stroke: currentColor; stroke-opacity: 0.45; stroke-width: 1.4; }
.figure .tip { fill: currentColor; fill-opacity: 0.6; }
.figure .rule { stroke: currentColor; stroke-opacity: 0.2; }
"""


@dataclass(frozen=True)
class House:
    """The packages of a project.

    Attributes:
        floors: names of packages, the highest floor first.
        modules: number of modules in each.
        imports: for each (importer, imported), the number of modules of the first that import the second.
        rooms: the folders of a package whose folders are independent of one another.
    """

    floors: tuple[tuple[str, ...], ...]
    modules: Mapping[str, int]
    imports: Mapping[tuple[str, str], int]
    rooms: Mapping[str, tuple[str, ...]]

    @property
    def packages(self) -> tuple[str, ...]:
        """All packages, from the top."""
        return tuple(name for floor in self.floors for name in floor)

    def needed(self) -> list[tuple[str, str]]:
        """The imports that do not follow from others by way of a package in between."""
        return [(high, low) for high, low in self.imports if not self._reached(high, low)]

    def _reached(self, high: str, low: str) -> bool:
        return any(
            (high, between) in self.imports and ((between, low) in self.imports or self._reached(between, low))
            for between in self.packages
            if between not in (high, low)
        )


def read_house(root: Path = ROOT, project: str = "alitok") -> House:
    """Floors from the contracts of import-linter, imports from the code.

    Imports inside functions and for type checking count too, as they do for import-linter.
    """
    linter = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = next(contract["layers"] for contract in linter["contracts"] if contract["type"] == "layers")
    floors = tuple(tuple(name.strip() for name in layer.replace(":", "|").split("|")) for layer in layers)
    packages = {name for floor in floors for name in floor}
    modules: Counter[str] = Counter()
    imports: Counter[tuple[str, str]] = Counter()
    source = root / "src" / project
    rooms = {
        package: tuple(sorted(path.parent.name for path in (source / package).glob("*/__init__.py")))
        for contract in linter["contracts"]
        for package in (module.split(".")[1] for module in contract.get("modules", ()) if module.endswith(".*"))
    }
    for path in sorted(source.rglob("*.py")):
        package = path.relative_to(source).parts[0].removesuffix(".py")
        if package in packages:
            modules[package] += 1
            found = {name for name in imported(path, project) if name in packages and name != package}
            imports.update((package, name) for name in found)
    return House(floors, dict(modules), dict(sorted(imports.items())), rooms)


def imported(path: Path, project: str) -> set[str]:
    """The top-level packages of `project` that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} uses a relative import, which is not supported here"
            module = node.module or ""
            names |= {f"{module}.{alias.name}" for alias in node.names} if module == project else {module}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith(f"{project}.")}


class _Box(NamedTuple):
    """Top left corner and size."""

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
    """The floors, and below them all imports as a table."""
    width, left, high, gap = 940, 70, 40, 44
    boxes: dict[str, _Box] = {}
    parts: list[str] = []
    for place, floor in enumerate(house.floors):
        y = 34 + place * (high + gap)
        number = len(house.floors) - 1 - place
        parts.append(_text(8, y + high / 2 + 5, f"floor {number}", "small"))
        slot = (width - left) / len(floor)
        for column, name in enumerate(floor):
            rooms = house.rooms.get(name, ())
            across = slot - 24 if rooms else min(slot - 24, 210)
            box = _Box(left + slot * (column + 0.5) - across / 2, y, across, high)
            boxes[name] = box
            count = house.modules.get(name, 0)
            what = f"{count} modules" if count != 1 else "1 module"
            parts.append(_rectangle(box, _HUES[number % len(_HUES)], f"alitok.{name}: {what}"))
            if rooms:
                parts.append(_text(box.x + 14, y + high / 2 + 5, f"{name}/", "name"))
                parts.append(_text(box.middle + 20, y + high / 2 + 5, " · ".join(rooms), "", "middle"))
            else:
                parts.append(_text(box.middle, y + high / 2 + 5, name, "name", "middle"))
    lines = [_curve(boxes[high_], boxes[low]) for high_, low in house.needed()]
    top = max(box.bottom for box in boxes.values()) + 50
    table, bottom = _table(house, 150, top)
    caption = "Lines: imports that do not follow from others. The table below has all."
    return _svg(width, bottom + 10, [_text(left, 18, caption, "small"), *lines, *parts, *table], "Packages of alitok")


def _table(house: House, left: float, top: float) -> tuple[list[str], float]:
    """Rows import columns, by number of modules. Returns the parts and the y where they end."""
    cell, names = 44, house.packages
    floor_of = {name: len(house.floors) - 1 - place for place, floor in enumerate(house.floors) for name in floor}
    most = max(house.imports.values())
    first = top + 110  # below the slanted names
    parts = [_text(left, top, "Modules of a row that import a column; on the diagonal, its number of modules", "small")]
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
                title = f"{importer} imports {name} in {count} of its modules"
                parts.append(_rectangle(box, _HUES[floor_of[name] % len(_HUES)], title, strength))
            if count:
                parts.append(_text(box.middle, y + cell / 2 + 5, str(count), "small", "middle"))
        if row and floor_of[importer] != floor_of[names[row - 1]]:
            end = left + cell * len(names)
            parts.append(f'<line class="rule" x1="{left:.0f}" y1="{y:.0f}" x2="{end:.0f}" y2="{y:.0f}"/>')
    return parts, first + cell * len(names)


def steps_svg(steps: Mapping[str, Step] = STEPS) -> str:
    """The steps of a run, each below those it needs, with its outputs and the settings that decide it."""
    wide, gap, between = 400, 48, 60
    depth = depths(steps)
    middles: dict[str, float] = {}
    boxes: dict[str, _Box] = {}
    texts: dict[str, list[tuple[str, str]]] = {name: _lines(name, step) for name, step in steps.items()}
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
    """The length of the longest chain of steps before each."""
    found: dict[str, int] = {}
    for name, step in steps.items():
        found[name] = max((found[need] + 1 for need in step.needs), default=0)
    return found


def _lines(name: str, step: Step) -> list[tuple[str, str]]:
    """The text of a box, line by line, each with its class."""
    lines = [("name", step.title)]
    products = step.products or (f"done/{name}.json",)
    lines += [("path", line) for line in _wrapped("→ ", products)]
    return lines + [("small", line) for line in _wrapped("decided by ", _grouped(step.settings))]


def _grouped(settings: Iterable[str]) -> list[str]:
    """Key paths; several of one table become `table.{a, b}`."""
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


def method_svg() -> str:
    """Tokenizer above, generator below, both around one sequence of codes."""
    width, height, middle = 920, 262, 92
    encoder, quantizer = _Box(122, 62, 150, 60), _Box(304, 62, 116, 60)
    causal, bidirectional, generator = _Box(658, 22, 190, 60), _Box(658, 104, 190, 60), _Box(452, 190, 180, 60)
    boxes = [
        (encoder, 210, "ViT encoder", "sees the whole image"),
        (quantizer, 175, "quantizer", "V codes"),
        (causal, 95, "causal decoder", "stage 1: shapes the codes"),
        (bidirectional, 45, "bidirectional decoder", "stage 2: fidelity"),
        (generator, 285, "generator", "next-code prediction"),
    ]
    parts = [f'<rect class="ground" width="{width}" height="{height}"/>']
    for box, hue, name, note in boxes:
        parts.append(_rectangle(box, hue, name))
        parts.append(_text(box.middle, box.y + 26, name, "name", "middle"))
        parts.append(_text(box.middle, box.y + 45, note, "small", "middle"))
    side, left = 15, 452  # one code; where the sequence begins
    for place in range(12):
        box = _Box(left + place * side, middle - 8, side - 2, side - 2)
        parts.append(_rectangle(box, 330 if place < 4 else 140, "prefix code" if place < 4 else "grid code", 0.5))
    end = left + 12 * side
    parts += [
        _text(left, middle - 18, "prefix", "small"),
        _text(end, middle - 18, "grid codes", "small", "end"),
        _text(46, middle + 5, "image", "name", "middle"),
        _text(886, middle + 5, "image", "name", "middle"),
        _text(330, 225, "class, guidance scale, seed", "small", "middle"),
        _arrow(74, middle, encoder.x, middle),
        _arrow(encoder.x + encoder.width, middle, quantizer.x, middle),
        _arrow(quantizer.x + quantizer.width, middle, left - 6, middle),
        _arrow(end + 4, middle - 6, causal.x, causal.y + 30),
        _arrow(end + 4, middle + 4, bidirectional.x, bidirectional.y + 30),
        _arrow(causal.x + causal.width, causal.y + 30, 872, middle - 10),
        _arrow(bidirectional.x + causal.width, bidirectional.y + 30, 872, middle + 14),
        _arrow(418, 220, generator.x, 220),
        _arrow(generator.middle, generator.y, generator.middle, middle + 14),
    ]
    return _svg(width, height, parts, "The method: encoder, codes, two decoders, generator")


def _arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    turn = math.degrees(math.atan2(y2 - y1, x2 - x1))
    return (
        f'<path class="line" d="M{x1:.0f} {y1:.0f} L{x2:.0f} {y2:.0f}"/>'
        f'<path class="tip" transform="translate({x2:.0f} {y2:.0f}) rotate({turn:.0f})" d="M-8 -4 l8 4 l-8 4 z"/>'
    )


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(text)}</text>'


def _rectangle(box: _Box, hue: int, title: str, strength: float = 0.22) -> str:
    color, place = f"hsl({hue} 70% 50%)", f'x="{box.x:.0f}" y="{box.y:.0f}" rx="6"'
    place = f'{place} width="{box.width:.0f}" height="{box.height:.0f}"'
    return (
        f'<rect class="ground" {place}/>'  # hides the lines that pass behind
        f'<rect {place} fill="{color}" fill-opacity="{strength:.2f}" '
        f'stroke="{color}" stroke-opacity="{min(1, strength * 3):.2f}">'
        f"<title>{escape(title)}</title></rect>"
    )


def _curve(above: _Box, below: _Box, around: bool = False) -> str:
    """From the bottom of one box to the top of another; `around` passes a box in between."""
    x1, y1, x2, y2 = above.middle, above.bottom, below.middle, below.y - 7
    if around and abs(x1 - x2) < 1:  # past its right side
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
        f'<svg xmlns="http://www.w3.org/2000/svg" class="figure" role="img" aria-label="{escape(title)}" '
        f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">\n'
        f"<style>{_STYLE}</style>\n{inside}\n</svg>\n"
    )


def figures() -> dict[str, str]:
    """All figures by name."""
    return {"house": house_svg(read_house()), "steps": steps_svg(), "method": method_svg()}


def main() -> None:
    """Write all figures to the folder on the command line."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures().items():
        (folder / f"{name}.svg").write_text(figure, encoding="utf-8")


if __name__ == "__main__":
    main()
