"""`alitok convert`: import and export of released weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from alitok.apps.convert.options import ConvertReleasedOptions

app = App(name="convert", help="Import and export released weights.")


@app.command
def released(*, options: Annotated[ConvertReleasedOptions, Parameter(name="*")]) -> None:
    """Convert released weights to safetensors and a config.

    Args:
        options: what to convert.
    """
    from alitok.apps.convert.files import convert_released

    sys.stdout.writelines(f"{path}\n" for path in convert_released(options))


@app.command
def to_released(directory: Path, *, out: Path) -> None:
    """Write models under their released tensor names, bit for bit.

    Args:
        directory: output of `alitok convert released` or of a training.
        out: directory for `AliTok.pth`, `AliTok_stage1.pth` and `alitok_generator.bin`.
    """
    from alitok.apps.convert.files import convert_to_released

    sys.stdout.writelines(f"{path}\n" for path in convert_to_released(directory, out))
