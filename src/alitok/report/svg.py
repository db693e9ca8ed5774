"""What all drawn curves share: how a figure becomes SVG text, and how that stands in a page.

Enters: a figure of matplotlib, drawn within `svg_settings`. Leaves: the text of an SVG file, or the element of a page.
"""

from __future__ import annotations

import io
import re
from typing import Any


def svg_settings(salt: str) -> dict[Any, Any]:
    """For `matplotlib.rc_context`: texts stay texts, and the same figure is the same file.

    Args:
        salt: of the identifiers inside; unlike for figures that stand in one page.
    """
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.size": 9,
        "text.parse_math": False,
        "text.usetex": False,
    }


def svg_text(figure: Any, **ground: Any) -> str:
    """The figure as an SVG file, without a date or a title.

    Args:
        figure: of matplotlib.
        **ground: what is behind it, as `savefig` takes it.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")), **ground)
    return buffer.getvalue()


def inside_page(svg: str) -> str:
    """The svg element alone, as HTML takes it: no name spaces and no addresses in it.

    Identifiers that nothing refers to are left out, as the next figure of the page would have the same.
    """
    element = svg[svg.index("<svg") :]
    element = re.sub(r' xmlns(:\w+)?="[^"]*"', "", element)
    element = re.sub(r' id="[\w.]+_\d+"', "", element)
    return element.replace("xlink:href", "href")
