"""Libraries that only some commands need, asked for before hours of work and not after them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from alitok.core.errors import AlitokError

_PACKAGES: Mapping[str, str] = {"sklearn": "scikit-learn"}  # where the package is called otherwise than its module


def require_libraries(what: str, extra: str, *modules: str) -> None:
    """Refuse to begin what could not be concluded.

    Args:
        what: begins the sentence, such as "An evaluation".
        extra: of this package, which brings all the modules.
        modules: that will be imported.

    Raises:
        AlitokError: one is missing.
    """
    missing = [_PACKAGES.get(name, name) for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise AlitokError(f"{what} needs {', '.join(missing)}; install with pip install 'alitok[{extra}]'.")
