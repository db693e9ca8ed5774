"""What all reports share: one HTML file per report, made from the forms in `templates`.

Enter: the name of a form and what it shows. Leaves: the file. It holds no script and fetches nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from alitok.core.errors import AlitokError
from alitok.core.files import write_bytes

_TEMPLATES = Path(__file__).with_name("templates")
_P = ParamSpec("_P")
_R = TypeVar("_R")


def needs_libraries(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Turn the import of a library that a report needs, and that is missing, into an error for people."""

    @functools.wraps(function)
    def told(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except ImportError as error:
            raise AlitokError(
                f"Writing a report needs {error.name}; install it with pip install 'alitok[demo]'."
            ) from None

    return told


@needs_libraries
def write_page(path: Path, template: str, **shown: Any) -> None:
    """Write one page, whole or not at all.

    Args:
        path: of the file.
        template: one of the forms in `templates`.
        **shown: what the form names; every text is escaped.

    Raises:
        AlitokError: jinja2 is missing.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "significant": significant}
    page = environment.get_template(template).render(shown)
    # Names of folders may hold bytes that are no text.
    write_bytes(path, page.encode("utf-8", "replace"))


def duration(seconds: float) -> str:
    """Such as `3 h 04 min`, `5 min 12 s` or `8.3 s`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def significant(value: float) -> str:
    """Three significant digits, or all of a whole number that has more: `0.0210`, `4.57`, `1,234`."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"
