"""`alitok convert`: released weights in and out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

app = App(name="convert", help="Released weights to alitok's own files, and back.")


@app.command
def released(
    *,
    tokenizer: Annotated[list[Path] | None, Parameter(negative="")] = None,
    generator: Path | None = None,
    out: Path,
    encoder_heads: int = 12,
    decoder_heads: int = 16,
    heads: int = 16,
) -> None:
    """Convert released weights to safetensors and a config.

    Args:
        tokenizer: AliTok.pth (stage 2), a stage-1 training file, or both with the option given twice.
        generator: alitok_b.bin, alitok_l.bin or alitok_xl.bin.
        out: the directory to write; with both models it is what `alitok.Pipeline.from_pretrained` reads.
        encoder_heads: attention heads of the tokenizer's encoder; weights do not tell them.
        decoder_heads: attention heads of the tokenizer's decoder.
        heads: attention heads of the generator.
    """
    from alitok.apps.convert.files import convert_released

    written = convert_released(
        tokenizer or [],
        generator,
        out,
        encoder_heads=encoder_heads,
        decoder_heads=decoder_heads,
        heads=heads,
    )
    sys.stdout.writelines(f"{path}\n" for path in written)


@app.command
def to_released(directory: Path, *, out: Path) -> None:
    """Write models back under their released names, bit for bit.

    Args:
        directory: what `alitok convert released` or a training wrote.
        out: the directory for `AliTok.pth`, `AliTok_stage1.pth` and `alitok_generator.bin`.
    """
    from alitok.apps.convert.files import convert_to_released

    sys.stdout.writelines(f"{path}\n" for path in convert_to_released(directory, out))
