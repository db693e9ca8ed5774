"""Curves as a report shows them: each panel an SVG element inside the page.

Enter: `Curve`s. Leave: `Panel`s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from alitok.report.page import needs_libraries
from alitok.report.svg import inside_page, svg_settings, svg_text

# Distinguishable for the colour-blind (Okabe and Ito) and dark enough for a light card.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Where the labels of the first, second, ... line stand from their points, so that close lines have theirs apart.
_PLACES = ((4, 4, "left", "bottom"), (-4, -4, "right", "top"), (-4, 4, "right", "bottom"), (4, -4, "left", "top"))


@dataclass(frozen=True)
class Curve:
    """One panel of curves.

    Attributes:
        title: of the panel.
        x_label, y_label: of the axes.
        lines: (x values, y values) by name.
        log_y: whether the y axis is logarithmic.
        markers: whether every point is marked; the page then tells the points' numbers too.
        labels: texts beside the points of a line, by its name.
        label_name: what these texts are, such as "guidance scale".
    """

    title: str
    x_label: str
    y_label: str
    lines: dict[str, tuple[list[float], list[float]]]
    log_y: bool = False
    markers: bool = False
    labels: dict[str, list[str]] = field(default_factory=dict)
    label_name: str = "point"


@dataclass(frozen=True)
class Panel:
    """A curve as it stands in the page.

    Attributes:
        curve: what it shows.
        svg: the element, safe to stand in HTML.
        points: (line, label, x, y) of every marked point, formatted; none where points are not marked.
    """

    curve: Curve
    svg: str
    points: tuple[tuple[str, str, str, str], ...] = ()


@needs_libraries
def panels(curves: list[Curve]) -> list[Panel]:
    """Draw the curves.

    Raises:
        AlitokError: matplotlib is missing.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    drawn = []
    for number, curve in enumerate(curves):
        with mpl.rc_context(svg_settings(f"panel {number}")):
            drawn.append(Panel(curve, _svg(curve, Figure), _points(curve)))
    return drawn


def _points(curve: Curve) -> tuple[tuple[str, str, str, str], ...]:
    if not curve.markers:
        return ()
    return tuple(
        (name, label, f"{x:.4g}", f"{y:.4g}")
        for name, (xs, ys) in curve.lines.items()
        for label, x, y in zip(_labels(curve, name), xs, ys, strict=True)
    )


def _labels(curve: Curve, name: str) -> list[str]:
    """The text beside each point of a line, empty where it has none."""
    return curve.labels.get(name) or [""] * len(curve.lines[name][0])


def _svg(curve: Curve, figure_class: Callable[..., Any]) -> str:
    """The panel as an SVG element without a title, dark on nothing: it stands on a light card."""
    figure = figure_class(figsize=(4.6, 3.5 if curve.labels else 2.9), layout="constrained")
    axes = figure.add_subplot()
    lines = {name: points for name, points in curve.lines.items() if len(points[0])}
    for number, (name, (x, y)) in enumerate(lines.items()):
        marker = _MARKERS[number % len(_MARKERS)] if curve.markers or len(x) == 1 else None
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(x, y, label=name, color=colour, linewidth=1.3, marker=marker, markersize=4 if curve.markers else 6)
        for label, *point in zip(_labels(curve, name), x, y, strict=True):
            _label(axes, label, point, number)
    if curve.log_y and any(value > 0 for _, y in lines.values() for value in y):
        _log_axis(axes)
    axes.set(xlabel=curve.x_label, ylabel=curve.y_label)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if lines:
        axes.legend(frameon=False)
    else:
        axes.text(0.5, 0.5, "nothing recorded", ha="center", transform=axes.transAxes)
    return inside_page(svg_text(figure, transparent=True))


def _label(axes: Any, text: str, point: list[float], line: int) -> None:
    """Text beside a point of the given line, in a darker shade of its colour; the page gives it a light edge."""
    from matplotlib.colors import to_rgb

    right, up, side, foot = _PLACES[line % len(_PLACES)]
    axes.annotate(
        text,
        point,
        (right, up),
        textcoords="offset points",
        ha=side,
        va=foot,
        fontsize=7.5,
        color=[0.6 * part for part in to_rgb(_COLOURS[line % len(_COLOURS)])],
    )


def _log_axis(axes: Any) -> None:
    """A logarithmic y axis with plain numbers at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
