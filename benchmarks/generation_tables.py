"""Tables in Markdown, and a plot, of the results of `generation.py`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

PRECISIONS = ("fp32", "bf16", "int8")
_TIMES = ("batch", "weights", "s per image", "ms per step", "limit", "of bandwidth", "of roofline", "GB")
COLUMNS = {
    "matrix": ("model", *_TIMES, "x slow sampler"),
    "growth": ("codes", "weights", "codes, s", "pixels, s", "ms per step", "limit", "of roofline"),
    "batches": _TIMES,
    "soft": ("weights", "plain guidance, s", "SoftCFG, s", "ratio"),
    "exactness": ("model", "weights", "logit error", "largest", "same codes", "same after guidance"),
}


def table(part: str, cases: list[dict[str, Any]]) -> str:
    """The cases of a part as a table in Markdown."""
    heads = COLUMNS[part]
    rows = [row for case in cases if case["part"] == part for row in _rows(case)]
    lines = [" | ".join(row) for row in (heads, ["---:"] * len(heads), *rows)]
    return "\n".join(f"| {line} |" for line in lines)


def _rows(case: dict[str, Any]) -> list[list[str]]:
    if "refused" in case:
        which = {"matrix": [case["preset"], str(case["batch"])], "growth": [str(case["grid"] ** 2)]}
        row = [*which.get(case["part"], [str(case["batch"])]), case["precision"], case["refused"]]
        return [[*row, *[""] * (len(COLUMNS[case["part"]]) - len(row))]]
    if case["part"] == "soft":
        return [[case["dtype"], f"{case['plain']:.3f}", f"{case['soft']:.3f}", f"{case['ratio']:.3f}"]]
    if case["part"] == "exactness":
        name = Path(case["preset"]).name if os.sep in case["preset"] else case["preset"]
        shares = ("logit_error", "largest_logit_error", "same_codes", "same_guided_codes")
        return [
            [name, kind, *(f"{found[share]:.3%}" for share in shares)] for kind, found in case["precisions"].items()
        ]
    step = [f"{case['ms_per_step']:.2f}", f"{case['limit_ms_per_step']:.2f}"]
    bandwidth, roofline = f"{case['bandwidth_fraction']:.0%}", f"{case['roofline_fraction']:.0%}"
    memory, speed = f"{case['peak_memory_bytes'] / 1e9:.1f}", case["speed_over_oracle"]
    if case["part"] == "growth":
        parts = [f"{case['codes_seconds']:.3f}", f"{case['decode_seconds']:.3f}"]
        return [[str(case["codes"]), case["dtype"], *parts, *step, roofline]]
    row = [str(case["batch"]), case["dtype"], f"{case['seconds_per_image']:.3f}", *step, bandwidth, roofline, memory]
    return [[case["preset"], *row, "" if speed is None else f"{speed:.0f}"] if case["part"] == "matrix" else row]


def plot(cases: list[dict[str, Any]], path: Path) -> None:
    """Time per image against the number of codes, and against the batch."""
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = "alitok"  # the same numbers give the same file
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter, LogLocator

    timed = [case for case in cases if "seconds_per_image" in case]
    figure = Figure(figsize=(9.2, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, part, x, label in zip(
        panels,
        ("growth", "batches"),
        ("codes", "batch"),
        ("codes of an image", "images per batch"),
        strict=True,
    ):
        for precision in PRECISIONS:
            points = [case for case in timed if case["part"] == part and case["dtype"] == precision]
            if points:
                along = [case[x] for case in points]
                codes = [case["codes_seconds"] / case["batch"] for case in points]
                whole = [case["seconds_per_image"] for case in points]
                (line,) = axes.plot(along, whole, marker="o", linewidth=1.3, label=f"{precision}, codes and pixels")
                axes.plot(along, codes, linestyle=":", color=line.get_color(), label=f"{precision}, codes alone")
        axes.set(xscale="log", yscale="log", xlabel=label, ylabel="seconds per image")
        axes.set_xticks(sorted({case[x] for case in timed if case["part"] == part}))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.minorticks_off()
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            axes.legend(frameon=False)
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type")) if path.suffix == ".svg" else None
    figure.savefig(path, metadata=nothing)
