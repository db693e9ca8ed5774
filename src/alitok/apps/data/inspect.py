"""`alitok data inspect`: every image of a source read once, and what training would do with it.

Enters: what the user wrote for the data. Leaves: tables on the terminal, a contact sheet, and everything found as JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alitok.core.console import Reporter, counted, progress_bar, reporter
from alitok.core.errors import AlitokError
from alitok.core.files import file_name, write_bytes, write_json
from alitok.core.sheets import captioned_sheet
from alitok.data.crops import VIEWS, centre_crop
from alitok.data.decode import read_image, silence_pillow, too_small
from alitok.data.sources.builtin import BUILTIN
from alitok.data.sources.decoded import DecodedSource, crops_per_image
from alitok.data.sources.images import Broken
from alitok.data.sources.opening import open_splits
from alitok.data.split import MOST_BROKEN, Splits, check_broken, list_broken
from alitok.data.survey import SIZES, Duplicates, Preview, Survey, duplicates, suggest_size, survey
from alitok.run.resolve import named_recipe

_CLASSES_AT_AN_END = 20  # classes shown of the largest and of the smallest
_NAMED = 10  # images that a list names
_SHEET, _SHEET_COLUMNS, _CELL = 64, 8, 96  # images, images in a row, pixels
_WHERE = {"across classes": "in different classes", "across train and held-out": "in training and held out"}
_EDGES = (16, 32, 64, 128, 256, 512, 1024)  # of the buckets of short sides


def run_inspect(
    source: str,
    *,
    size: int | None = None,
    sheet: Path | None = None,
    json_path: Path | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> dict[str, Any]:
    """Read every image of a source and tell what is there; returns what `json_path` would hold.

    Args:
        source: any form that `alitok.data.sources.decoded` lists.
        size: pixels a side that training would use; chosen from the images unless given.
        sheet: where the contact sheet is written; inspect-NAME.png unless given.
        json_path: also write everything found there.
        seed: decides which images would be held out.
        console: where to print.

    Raises:
        AlitokError: there is no such source, or, once everything is told and written, a training would stop.
    """
    if size is not None and size < 1:
        raise AlitokError(f"--size must be at least 1, not {size}.")
    console = console or Console()
    say = reporter(console)
    splits = open_splits(source, size or (BUILTIN[source].size if source in BUILTIN else SIZES[0]), seed, say)
    with progress_bar(console, "Reading every image", len(splits)) as bar:
        found = survey(splits, bar.advance)
    shorts = found.sizes[found.usable].min(axis=1)
    look = Preview(suggest_size(shorts) if len(shorts) else SIZES[0], len(splits.train))
    chosen = size or (BUILTIN[source].size if source in BUILTIN else _recipe_size(source, look))
    broken = found.broken + _small(found, chosen)
    same = duplicates(found)
    stops = _stops(broken, splits)
    facts = {
        "source": splits.name,
        "contents": splits.contents,
        "images": len(splits),
        "classes": _classes(found),
        "sizes": _sizes(found),
        "kinds": {kind: {"images": count, "example": key} for kind, (count, key) in sorted(found.kinds.items())},
        "broken": [image._asdict() for image in broken],
        "duplicates": _duplicates(found, same),
        "training": _training(found, broken, chosen, size, stops),
        "notes": list(splits.notes),
    }
    _show(facts, broken, json_path, say, console)
    sheet = sheet or Path(f"inspect-{file_name(source)}.png")
    if _write_sheet(found, {image.key for image in broken}, sheet):
        say(f"Contact sheet: {sheet}")
    if json_path is not None:
        write_json(json_path, facts)
        say(f"Everything found: {json_path}")
    if stops is not None:
        raise AlitokError(stops)
    return facts


def _recipe_size(source: str, look: Preview) -> int:
    """What `alitok fit` would choose on this machine."""
    return named_recipe("auto", source, known=look).tokenizer.image_size


def _small(found: Survey, size: int) -> list[Broken]:
    """Images that are too small for training at `size`."""
    below = _below(found, size)
    problems = [too_small(width, height, size) for width, height in found.sizes[below].tolist()]
    return [Broken(found.key(index), said) for index, said in zip(below, problems, strict=True) if said is not None]


def _below(found: Survey, size: int) -> list[int]:
    """Images whose short side is below `size`."""
    return np.flatnonzero((found.sizes.min(axis=1) < size) & (found.sizes[:, 0] > 0)).tolist()


def _stops(broken: Sequence[Broken], splits: Splits) -> str | None:
    """Why a training would stop."""
    try:
        check_broken(broken, splits)
    except AlitokError as error:
        return str(error)
    return None


def _classes(found: Survey) -> dict[str, dict[str, int]]:
    classes = found.splits.train.classes
    held, train = (np.bincount(found.labels[mask], minlength=len(classes)) for mask in (found.val, ~found.val))
    return {
        name: {"images": int(train[row] + held[row]), "train": int(train[row]), "val": int(held[row])}
        for row, name in enumerate(classes)
    }


def _sizes(found: Survey) -> dict[str, Any]:
    sizes = found.sizes[found.usable]
    if not len(sizes):
        return {}
    sides = {"width": sizes[:, 0], "height": sizes[:, 1], "short side": sizes.min(axis=1)}
    ends = {
        name: {"min": int(side.min()), "median": float(np.median(side)), "max": int(side.max())}
        for name, side in sides.items()
    }
    counts = np.bincount(np.searchsorted(_EDGES, sides["short side"], side="right"), minlength=len(_EDGES) + 1)
    names = [f"below {_EDGES[0]}", *(f"{a} to {b - 1}" for a, b in pairwise(_EDGES))]
    buckets = dict(zip([*names, f"{_EDGES[-1]} and more"], counts.tolist(), strict=True))
    return {**ends, "short sides": {name: count for name, count in buckets.items() if count}}


def _duplicates(found: Survey, same: Duplicates) -> dict[str, Any]:
    def keys(numbers: Iterable[int]) -> list[list[str]]:
        return [[found.key(index) for index in same.groups[number].tolist()] for number in numbers]

    return {
        "surplus": same.surplus,
        "groups": keys(range(len(same.groups))),
        "across classes": keys(same.across_classes),
        "across train and held-out": keys(same.across_splits),
    }


def _training(
    found: Survey, broken: Sequence[Broken], size: int, given: int | None, stops: str | None
) -> dict[str, Any]:
    rest = found.splits.without({image.key for image in broken})
    crops = VIEWS["ten"] // (1 if rest.train.flip else 2)  # half of the ten are mirror images
    per_image = crops if isinstance(rest.train, DecodedSource) else crops_per_image(rest.train, "ten")
    return {
        "image size": size,
        "size given": given is not None,
        "train": len(rest.train),
        "val": len(rest.val),
        "enlarged": len(_below(found, size)) - len(_small(found, size)),
        "mirrored": rest.train.flip,
        "crops": per_image,
        "ten-crop sequences": len(rest.train) * per_image,
        "stops": stops is not None,
    }


def _show(
    facts: Mapping[str, Any], broken: Sequence[Broken], json_path: Path | None, say: Reporter, console: Console
) -> None:
    say(
        f"{facts['source']}: {counted(facts['images'], 'image')} of "
        f"{counted(len(facts['classes']), 'class', 'classes')}"
    )
    for note in facts["notes"]:
        say(note)
    console.print(_class_table(facts["classes"]))
    if facts["sizes"]:
        console.print(_size_table(facts["sizes"]))
        buckets = ", ".join(f"{name}: {count:,}" for name, count in facts["sizes"]["short sides"].items())
        say(f"Images by short side: {buckets}")
    if facts["kinds"]:
        rows = [(kind, f"{entry['images']:,}", entry["example"]) for kind, entry in facts["kinds"].items()]
        console.print(_table("Kinds", ("kind", "images", "such as"), rows))
    if broken:
        say(f"{len(broken):,} cannot be used:\n{list_broken(broken, _NAMED)}{_whole_list(broken, json_path)}")
    _show_duplicates(facts["duplicates"], json_path, say)
    console.print(_table("What training would do", None, _plan(facts["training"], len(broken))))


def _whole_list(items: Sequence[Any], json_path: Path | None) -> str:
    """Behind a list that was cut: where all of it is."""
    if len(items) <= _NAMED:
        return ""
    return "; --json FILE writes them all" if json_path is None else f"; all are in {json_path}"


def _plan(training: Mapping[str, Any], broken: int) -> list[tuple[str, str]]:
    return [
        ("image size", f"{training['image size']} pixels a side{'' if training['size given'] else ', chosen'}"),
        ("images for training", f"{training['train']:,}"),
        ("held out", f"{training['val']:,}"),
        ("enlarged", f"{training['enlarged']:,}"),
        ("left out as broken", f"{broken:,}; at most {MOST_BROKEN:.0%} may be"),
        ("mirrored", "by chance" if training["mirrored"] else "never"),
        ("stored sequences", f"{training['ten-crop sequences']:,}: {counted(training['crops'], 'crop')} of an image"),
        ("would it start", "no" if training["stops"] else "yes"),
    ]


def _show_duplicates(same: Mapping[str, Any], json_path: Path | None, say: Reporter) -> None:
    if not same["surplus"]:
        say("No two images have the same pixels.")
        return
    example = " and ".join(same["groups"][0][:2])
    say(f"Copies of another image, pixel for pixel: {same['surplus']:,}, such as {example}.")
    for where, what in _WHERE.items():
        if same[where]:
            groups = "\n".join(" = ".join(group[:3]) for group in same[where][:_NAMED])
            more = f"\n... and {len(same[where]) - _NAMED:,} more" if len(same[where]) > _NAMED else ""
            say(f"Of these, {what}: {len(same[where]):,}\n{groups}{more}{_whole_list(same[where], json_path)}")


def _class_table(classes: Mapping[str, Mapping[str, int]]) -> Table:
    by_count = sorted(classes.items(), key=lambda pair: -pair[1]["images"])
    rows = [(name, *(f"{entry[key]:,}" for key in ("images", "train", "val"))) for name, entry in by_count]
    if len(rows) > 2 * _CLASSES_AT_AN_END:
        between = f"... {len(rows) - 2 * _CLASSES_AT_AN_END:,} more ..."
        rows = [*rows[:_CLASSES_AT_AN_END], (between, "", "", ""), *rows[-_CLASSES_AT_AN_END:]]
    return _table("Classes, the largest first", ("class", "images", "train", "held out"), rows)


def _size_table(sizes: Mapping[str, Any]) -> Table:
    rows = [
        (name, *(f"{sizes[name][end]:,.0f}" for end in ("min", "median", "max")))
        for name in ("width", "height", "short side")
    ]
    return _table("Sizes in pixels", ("", "min", "median", "max"), rows)


def _table(title: str, header: Sequence[str] | None, rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", show_header=header is not None)
    for number, name in enumerate(header or ("", "")):
        counts = header is not None and number and name != "such as"
        table.add_column(name, justify="right" if counts else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _write_sheet(found: Survey, broken: set[str], path: Path) -> bool:
    """Up to 64 images, in turns from all classes, each with its class below; False if there is none to show."""
    cells = [(found.key(index), index) for index in _spread(found)]
    shown = [index for key, index in cells if key not in broken]
    if not shown:
        return False
    names = [found.splits.train.classes[found.labels[index]] for index in shown]
    images = [_cell(found, index) for index in shown]
    try:
        write_bytes(path, captioned_sheet(images, names, min(_SHEET_COLUMNS, len(shown))))
    except OSError as error:
        raise AlitokError(f"The contact sheet {path} cannot be written: {error.strerror or error}.") from None
    return True


def _spread(found: Survey) -> list[int]:
    """Images that were decoded, as equally many of each class as there are, evenly spread in each."""
    usable = found.usable
    by_class = [usable[found.labels[usable] == label] for label in np.unique(found.labels[usable])]
    if len(by_class) > _SHEET:
        by_class = [by_class[place] for place in np.linspace(0, len(by_class) - 1, _SHEET).round().astype(int)]
    shares = [0] * len(by_class)
    for _ in range(_SHEET):  # one more of each class, as long as there are images and room
        for number, rows in enumerate(by_class):
            shares[number] += shares[number] < len(rows) and sum(shares) < _SHEET
    chosen = [
        rows[np.linspace(0, len(rows) - 1, share).round().astype(int)]
        for rows, share in zip(by_class, shares, strict=True)
    ]
    return [int(index) for rows in chosen for index in rows]


def _cell(found: Survey, index: int) -> Image.Image:
    source, row = found.place(index)
    if isinstance(source, DecodedSource):
        with silence_pillow():
            return centre_crop(read_image(source.images, int(source.rows[row])), _CELL)
    image = Image.fromarray(np.ascontiguousarray(source.read(row, None).transpose(1, 2, 0)))
    return image.resize((_CELL, _CELL), Image.Resampling.NEAREST)
