"""`alitok data inspect`: reads every image of a source once and reports what training would do with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from alitok.apps.data.options import InspectOptions
from alitok.core.console import Reporter, counted, print_table, progress_bar, reporter
from alitok.core.errors import AlitokError
from alitok.core.files import file_name, write_bytes, write_json
from alitok.core.sheets import captioned_sheet
from alitok.data.crops import VIEWS, centre_crop
from alitok.data.decode import too_small
from alitok.data.sources.builtin import BUILTIN
from alitok.data.sources.decoded import DecodedSource, crops_per_image
from alitok.data.sources.images import Broken
from alitok.data.sources.opening import open_splits
from alitok.data.split import MOST_BROKEN, check_broken, list_broken
from alitok.data.survey import SIZES, Duplicates, Preview, Survey, duplicates, suggest_size, survey
from alitok.run.resolve import named_recipe

_CLASSES_AT_AN_END = 20  # classes shown of the largest and of the smallest
_NAMED = 10  # images that a list names
_SHEET, _SHEET_COLUMNS, _CELL = 64, 8, 96  # images, images in a row, px
_WHERE = {"across classes": "in different classes", "across train and val": "in both train and val"}
_SIDES = ("width", "height", "short side")
_EDGES = (16, 32, 64, 128, 256, 512, 1024)  # of the buckets of short sides


def run_inspect(
    source: str, options: InspectOptions | None = None, *, console: Console | None = None
) -> dict[str, Any]:
    """Report on a source and write its contact sheet; returns the content of the JSON file.

    Raises:
        AlitokError: there is no such source, or, after the whole report, training would stop.
    """
    options = options or InspectOptions()
    if options.size is not None and options.size < 1:
        raise AlitokError(f"--size must be at least 1, not {options.size}.")
    console = console or Console()
    log = reporter(console)
    size = options.size or (BUILTIN[source].size if source in BUILTIN else None)
    splits = open_splits(source, size or SIZES[0], options.seed, log)
    with progress_bar(console, "Reading every image", len(splits)) as bar:
        found = survey(splits, bar.advance)
    if size is None:  # what `alitok fit` would choose on this machine
        sides = found.sizes[found.usable].min(axis=1)
        seen = Preview(suggest_size(sides) if len(sides) else SIZES[0], len(splits.train))
        size = named_recipe("auto", source, known=seen).tokenizer.image_size
    broken = found.broken + _small(found, size)
    stops = None
    try:
        check_broken(broken, splits)
    except AlitokError as error:
        stops = str(error)
    facts = {
        "source": splits.name,
        "contents": splits.contents,
        "images": len(splits),
        "classes": _classes(found),
        "sizes": _sizes(found),
        "kinds": {kind: {"images": count, "example": key} for kind, (count, key) in sorted(found.kinds.items())},
        "broken": [image._asdict() for image in broken],
        "duplicates": _duplicates(found, duplicates(found)),
        "training": _training(found, broken, size, options.size, stops),
        "notes": list(splits.notes),
    }
    _show(facts, broken, options.json, console)
    sheet = options.sheet or Path(f"inspect-{file_name(source)}.png")
    if _write_sheet(found, {image.key for image in broken}, sheet):
        log(f"Contact sheet: {sheet}")
    if options.json is not None:
        write_json(options.json, facts)
        log(f"Everything found: {options.json}")
    if stops is not None:
        raise AlitokError(stops)
    return facts


def _small(found: Survey, size: int) -> list[Broken]:
    """Images that are too small for training at `size`."""
    below = _below(found, size)
    problems = [too_small(width, height, size) for width, height in found.sizes[below].tolist()]
    return [Broken(found.source.key(index), problem) for index, problem in zip(below, problems, strict=True) if problem]


def _below(found: Survey, size: int) -> list[int]:
    """Images whose short side is below `size`."""
    return np.flatnonzero((found.sizes.min(axis=1) < size) & (found.sizes[:, 0] > 0)).tolist()


def _classes(found: Survey) -> dict[str, dict[str, int]]:
    classes = found.splits.train.classes
    held, train = (np.bincount(found.source.labels[mask], minlength=len(classes)) for mask in (found.val, ~found.val))
    return {
        name: {"images": int(train[row] + held[row]), "train": int(train[row]), "val": int(held[row])}
        for row, name in enumerate(classes)
    }


def _sizes(found: Survey) -> dict[str, Any]:
    sizes = found.sizes[found.usable]
    if not len(sizes):
        return {}
    sides = dict(zip(_SIDES, (sizes[:, 0], sizes[:, 1], sizes.min(axis=1)), strict=True))
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
        return [[found.source.key(index) for index in same.groups[number].tolist()] for number in numbers]

    return {
        "surplus": same.surplus,
        "groups": keys(range(len(same.groups))),
        "across classes": keys(same.across_classes),
        "across train and val": keys(same.across_splits),
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


def _show(facts: Mapping[str, Any], broken: Sequence[Broken], json: Path | None, console: Console) -> None:
    log = reporter(console)
    classes = counted(len(facts["classes"]), "class", "classes")
    log(f"{facts['source']}: {counted(facts['images'], 'image')} of {classes}")
    for note in facts["notes"]:
        log(note)
    log("\nClasses, the largest first")
    print_table(console, ("class", "images", "train", "val"), _class_rows(facts["classes"]))
    if facts["sizes"]:
        log("\nSizes in px")
        ends = ("min", "median", "max")
        rows = [(side, *(f"{facts['sizes'][side][end]:,.0f}" for end in ends)) for side in _SIDES]
        print_table(console, ("", *ends), rows)
        buckets = ", ".join(f"{name}: {count:,}" for name, count in facts["sizes"]["short sides"].items())
        log(f"Images by short side: {buckets}")
    if facts["kinds"]:
        log("\nKinds")
        rows = [(kind, f"{entry['images']:,}", entry["example"]) for kind, entry in facts["kinds"].items()]
        print_table(console, ("kind", "images", "such as"), rows, left=("such as",))
    if broken:
        log(f"{len(broken):,} cannot be used:\n{list_broken(broken, _NAMED)}{_whole_list(broken, json)}")
    _show_duplicates(facts["duplicates"], json, log)
    log("\nWhat training would do")
    print_table(console, ("", ""), _training_rows(facts["training"], len(broken)), left=("",))


def _class_rows(classes: Mapping[str, Mapping[str, int]]) -> list[tuple[str, ...]]:
    by_count = sorted(classes.items(), key=lambda item: -item[1]["images"])
    rows = [(name, *(f"{entry[key]:,}" for key in ("images", "train", "val"))) for name, entry in by_count]
    if len(rows) > 2 * _CLASSES_AT_AN_END:
        between = f"... {len(rows) - 2 * _CLASSES_AT_AN_END:,} more ..."
        rows = [*rows[:_CLASSES_AT_AN_END], (between, "", "", ""), *rows[-_CLASSES_AT_AN_END:]]
    return rows


def _training_rows(training: Mapping[str, Any], broken: int) -> list[tuple[str, str]]:
    return [
        ("image size", f"{training['image size']} px{'' if training['size given'] else ', chosen'}"),
        ("train", f"{training['train']:,}"),
        ("val", f"{training['val']:,}"),
        ("enlarged", f"{training['enlarged']:,}"),
        ("skipped as broken", f"{broken:,}; at most {MOST_BROKEN:.0%} may be"),
        ("mirrored", "at random" if training["mirrored"] else "never"),
        ("stored sequences", f"{training['ten-crop sequences']:,}: {counted(training['crops'], 'crop')} per image"),
        ("would it start", "no" if training["stops"] else "yes"),
    ]


def _whole_list(items: Sequence[Any], json: Path | None) -> str:
    """After a list that was cut: where all of it is."""
    if len(items) <= _NAMED:
        return ""
    return "; --json FILE writes them all" if json is None else f"; all are in {json}"


def _show_duplicates(same: Mapping[str, Any], json: Path | None, log: Reporter) -> None:
    if not same["surplus"]:
        log("No two images have the same pixels.")
        return
    example = " and ".join(same["groups"][0][:2])
    log(f"Copies of another image, pixel for pixel: {same['surplus']:,}, such as {example}.")
    for where, what in _WHERE.items():
        if same[where]:
            groups = "\n".join(" = ".join(group[:3]) for group in same[where][:_NAMED])
            more = f"\n... and {len(same[where]) - _NAMED:,} more" if len(same[where]) > _NAMED else ""
            log(f"Of these, {what}: {len(same[where]):,}\n{groups}{more}{_whole_list(same[where], json)}")


def _write_sheet(found: Survey, broken: set[str], path: Path) -> bool:
    """Up to 64 images, in turns from all classes, each with its class below; False without any to show."""
    shown = [index for index in _spread(found) if found.source.key(index) not in broken]
    if not shown:
        return False
    names = [found.source.classes[found.source.labels[index]] for index in shown]
    images = [_cell(found, index) for index in shown]
    try:
        write_bytes(path, captioned_sheet(images, names, min(_SHEET_COLUMNS, len(shown))))
    except OSError as error:
        raise AlitokError(f"The contact sheet {path} cannot be written: {error.strerror or error}.") from None
    return True


def _spread(found: Survey) -> list[int]:
    """Decoded images, as equal in number per class as possible, evenly spread in each class."""
    usable, labels = found.usable, found.source.labels[found.usable]
    by_class = [usable[labels == label] for label in np.unique(labels)]
    if len(by_class) > _SHEET:
        by_class = [by_class[place] for place in np.linspace(0, len(by_class) - 1, _SHEET).round().astype(int)]
    counts = [0] * len(by_class)
    for _ in range(_SHEET):  # one more per class, as long as there are images and room
        for number, rows in enumerate(by_class):
            counts[number] += counts[number] < len(rows) and sum(counts) < _SHEET
    return [
        int(row)
        for rows, count in zip(by_class, counts, strict=True)
        for row in rows[np.linspace(0, len(rows) - 1, count).round().astype(int)]
    ]


def _cell(found: Survey, index: int) -> Image.Image:
    source, row = found.source.at(index)
    if isinstance(source, DecodedSource):
        return centre_crop(source.decode(row), _CELL)
    image = Image.fromarray(np.ascontiguousarray(source.read(row, None).transpose(1, 2, 0)))
    return image.resize((_CELL, _CELL), Image.Resampling.NEAREST)
