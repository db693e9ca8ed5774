"""The options of `alitok convert released`. Imports no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


@dataclass(frozen=True, kw_only=True)
class ConvertReleasedOptions:
    """Which released files to convert. Head counts cannot be read off the weights."""

    tokenizer: Annotated[tuple[Path, ...], Parameter(negative="", show_default=False)] = ()
    """AliTok.pth (stage 2), a stage-1 training file, or both with the option given twice"""

    generator: Path | None = None
    """alitok_b.bin, alitok_l.bin or alitok_xl.bin"""

    out: Path
    """output directory; with both models, `alitok.Pipeline.from_pretrained` reads it"""

    encoder_heads: int = 12
    """attention heads of the tokenizer's encoder"""

    decoder_heads: int = 16
    """attention heads of the tokenizer's decoder"""

    heads: int = 16
    """attention heads of the generator"""
