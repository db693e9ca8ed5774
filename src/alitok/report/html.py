"""Writes a report as one HTML file: no script, no network, light and dark, readable on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from alitok.core.errors import AlitokError
from alitok.core.files import write_bytes
from alitok.report.model import NOTHING, Report, fact_text

_TEMPLATE = Path(__file__).with_name("template.html")


@contextmanager
def needs_libraries() -> Iterator[None]:
    """Report a missing optional library as an error for users; a decorator too."""
    try:
        yield
    except ImportError as error:
        raise AlitokError(f"Writing a report needs {error.name}; install it with pip install 'alitok[demo]'.") from None


@needs_libraries()
def write_html(path: Path, report: Report) -> None:
    """Write `report`, whole or not at all; the same report gives the same file.

    AlitokError without jinja2 or matplotlib.
    """
    import jinja2

    from alitok.report.heat import inline_map
    from alitok.report.images import inline_sheet
    from alitok.report.plots import curve_svg, inline_svg, points

    salts = count()  # identifiers of the curves of one page differ
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        report=report,
        kind=lambda block: type(block).__name__,
        nothing=NOTHING,
        fact_text=fact_text,
        inline_sheet=inline_sheet,
        inline_map=inline_map,
        curve_svg=lambda curve: inline_svg(curve_svg(curve, salt=f"panel {next(salts)}")),
        points=points,
    )
    # Names of folders may hold bytes that are not text.
    write_bytes(path, page.encode("utf-8", "replace"))
