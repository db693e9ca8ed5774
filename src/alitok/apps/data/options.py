"""Options of `alitok data inspect` and `alitok data show`. Imports no PyTorch, so that the command line parses fast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alitok.core.choices import DeviceName


@dataclass(frozen=True)
class InspectOptions:
    """What `alitok data inspect` assumes and writes."""

    size: int | None = None
    """Image size in px that training would use; chosen from the images unless given."""

    sheet: Path | None = None
    """Where to write the contact sheet; inspect-NAME.png unless given."""

    json: Path | None = None
    """Also write everything found to this JSON file."""

    seed: int = 0
    """Draws the validation images."""


@dataclass(frozen=True)
class ShowOptions:
    """What `alitok data show` decodes."""

    tokenizer: Path | None = None
    """The saved tokenizer or pipeline that made the codes; the one named in the store unless given."""

    out: Path | None = None
    """The PNG to write; STORE.png unless given."""

    count: int = 32
    """Crops on the sheet, from as many images as have them."""

    seed: int = 0
    """Selects the images."""

    device: DeviceName = "auto"
    """Where to decode."""
