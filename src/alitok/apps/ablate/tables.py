"""Tables of the arms and codebook sizes: mean and sample standard deviation over the seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from alitok.apps.ablate.numbers import Ablation, CellNumbers, MeanStd, mean_std
from alitok.report.model import Cell, Row, Table


class Metric(NamedTuple):
    """How a number is shown: its head, digits after the point (None = three significant ones), and whether in %."""

    head: str
    digits: int | None
    percent: bool = False


METRICS = {
    "accuracy": Metric("accuracy, %", 1, percent=True),
    "grid_accuracy": Metric("grid accuracy, %", 1, percent=True),
    "bits": Metric("bits per image", 1),
    "grid_bits": Metric("grid bits", 1),
    "train_bits": Metric("bits, training", 1),
    "codebook_use": Metric("codebook use, %", 1, percent=True),
    "codebook_perplexity": Metric("perplexity", 1),
    "influence_future": Metric("later patches, %", 1, percent=True),
    "psnr": Metric("PSNR, dB", 2),
    "ssim": Metric("SSIM", 3),
    "feature_distance": Metric("feature distance", 3),
    "sample_distance": Metric("sample distance", None),
    "sample_accuracy": Metric("sample accuracy, %", 1, percent=True),
    "seconds": Metric("seconds", 0),
}
CODE_METRICS = tuple(METRICS)[:8]
IMAGE_METRICS = tuple(METRICS)[8:]
BRIEF_METRICS = ("accuracy", "bits", "psnr", "feature_distance", "codebook_use", *tuple(METRICS)[-3:])
_SIZE_METRICS = "bits", "grid_bits", "psnr", "ssim", "feature_distance", "accuracy", *CODE_METRICS[5:7]


def arms_table(ablation: Ablation, metrics: Iterable[str]) -> Table:
    """A row for every arm at the main codebook size, finished or not; `metrics` are keys of `METRICS`."""
    known = any(cell.influence_future is not None for cell in ablation.cells)
    names = tuple(name for name in metrics if name != "influence_future" or known)
    rows = tuple(
        Row(arm, (*mean_cells(cells := ablation.of(arm), names), str(len(cells))), key=title)
        for arm, title in ablation.arms.items()
    )
    footnote = f"Codebook size {ablation.codebook_size:,}. Mean ± sample standard deviation over the seeds."
    return Table((*(METRICS[name].head for name in names), "seeds"), rows, "arm", footnote=footnote)


def sizes_table(ablation: Ablation) -> Table:
    """A row for every codebook size of the arms that have several."""
    rows = []
    for arm in ablation.arms:
        for size in ablation.sizes(arm) if len(ablation.sizes(arm)) > 1 else ():
            cells = ablation.of(arm, size)
            rows.append(Row(f"{arm} {size:,}", (*mean_cells(cells, _SIZE_METRICS), str(len(cells)))))
    return Table((*(METRICS[name].head for name in _SIZE_METRICS), "seeds"), tuple(rows), "arm, codebook")


def mean_cells(cells: Sequence[CellNumbers], metrics: Iterable[str]) -> tuple[Cell, ...]:
    """Mean and standard deviation of each metric."""
    return tuple(mean_cell(mean_std(getattr(cell, name) for cell in cells), METRICS[name]) for name in metrics)


def mean_cell(value: MeanStd | None, metric: Metric, *, signed: bool = False) -> Cell:
    """A mean and, if known, its standard deviation."""
    if value is None:
        return Cell("")
    factor = 100 if metric.percent else 1
    digits = _digits(value.mean * factor) if metric.digits is None else metric.digits
    std = "" if value.std is None else f"± {value.std * factor:,.{digits}f}"
    return Cell(number(value.mean * factor, digits, signed=signed), std)


def number(value: float, digits: int, *, signed: bool = False) -> str:
    """Such as `1,234.5` or `+0.12`; a value that is rounded to zero has no sign."""
    text = f"{value:{'+' if signed else ''},.{digits}f}"
    return text if set(text) & set("123456789") or not math.isfinite(value) else text.lstrip("+-")


def interval(low: float, high: float, digits: int = 1) -> str:
    """A signed confidence interval."""
    return f"{number(low, digits, signed=True)} to {number(high, digits, signed=True)}"


def _digits(value: float) -> int:
    """After the point for three significant digits, at most six."""
    return 0 if value == 0 else min(6, max(0, 2 - math.floor(math.log10(abs(value)))))
