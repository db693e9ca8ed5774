"""Released weight files to model directories, and back; pickles that contain code are rejected, not run."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from alitok.apps.convert.layout import (
    RELEASED_PREFIX,
    generator_from_released,
    generator_to_released,
    tokenizer_from_released,
    tokenizer_to_released,
)
from alitok.apps.convert.options import ConvertReleasedOptions
from alitok.core.checkpoint import ModelCard
from alitok.core.errors import AlitokError, error_text
from alitok.core.files import atomic_path
from alitok.generator import Generator
from alitok.recipes.presets import GENERATORS, SAMPLING, imagenet_classes
from alitok.sampling import SamplingConfig
from alitok.sampling.pipeline import Pipeline
from alitok.tokenizer import Tokenizer, TokenizerConfig
from alitok.tokenizer.model import Stage


def read_released(path: Path) -> dict[str, Any]:
    """Read a .pth, .bin, .pt or .safetensors file without running code in it; `AlitokError` if it is not of tensors."""
    if not path.is_file():
        raise AlitokError(f"{path} does not exist; check the path.")
    try:
        with path.open("rb") as file:
            start = file.read(16)
        if start[8:9] == b"{":  # safetensors: the length of the header, then JSON
            return load_file(path)
        if not start.startswith((b"PK", b"\x80")):  # a zip archive, or a pickle
            raise AlitokError(f"{path} is truncated or not a weights file; download it again.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except AlitokError:
        raise
    except pickle.UnpicklingError as error:
        if "Unsupported" not in str(error) and "GLOBAL" not in str(error):
            raise AlitokError(f"{path} is truncated or not a weights file; download it again.") from None
        raise AlitokError(
            f"{path} holds Python objects beside tensors, which could run code; save a plain state dict instead."
        ) from None
    except Exception as error:  # truncated archives raise anything
        raise AlitokError(
            f"{path} is truncated or not a weights file ({error_text(error)}); download it again."
        ) from None
    if not isinstance(state, dict):
        raise AlitokError(f"{path} holds a {type(state).__name__}, not the named tensors of a model.")
    return state


def convert_released(options: ConvertReleasedOptions) -> list[Path]:
    """Convert released files to `out` (both models), or to `tokenizer/` or `generator/` in it; returns the directories.

    Raises:
        AlitokError: nothing to convert, a file that does not fit, or two tokenizers with different codes.
    """
    paths, out = options.tokenizer, options.out
    if not paths and options.generator is None:
        raise AlitokError("There is nothing to convert; pass --tokenizer, --generator or both.")
    tokenizer = _read_tokenizers(options) if paths else None
    if options.generator is None:
        assert tokenizer is not None
        tokenizer.save_pretrained(out / "tokenizer", _card(paths))
        return [out / "tokenizer"]
    codes = TokenizerConfig(prefix=RELEASED_PREFIX) if tokenizer is None else tokenizer.config
    state = read_released(options.generator)
    model = generator_from_released(state, heads=options.heads, prefix=codes.prefix_length, grid=codes.grid)
    if model.config.classes == len(imagenet_classes()):
        model.class_names = imagenet_classes()
    if tokenizer is None:
        model.save_pretrained(out / "generator", _card([options.generator]))
        return [out / "generator"]
    Pipeline(tokenizer, model, default_sampling(model)).save_pretrained(out, _card([*paths, options.generator]))
    return [out]


def _card(sources: Sequence[Path]) -> ModelCard:
    names = ", ".join(path.name for path in sources)
    return ModelCard(
        title="AliTok, converted",
        description=f"Converted tensor for tensor from the released layout: {names}.",
        data="not stated in the files; the published weights were trained on ImageNet-1k",
    )


def default_sampling(generator: Generator) -> SamplingConfig:
    """The released guidance for a generator of a published size, no guidance for any other."""
    config = generator.config
    for name, size in GENERATORS.items():
        if (size.layers, size.width) == (config.layers, config.width):
            return SAMPLING[name]
    return SamplingConfig()


def _read_tokenizers(options: ConvertReleasedOptions) -> Tokenizer:
    heads = {"encoder_heads": options.encoder_heads, "decoder_heads": options.decoder_heads}
    paths = options.tokenizer
    found = [tokenizer_from_released(read_released(path), **heads) for path in paths]
    if len(found) == 1:
        return found[0]
    by_stage: dict[Stage, Tokenizer] = {"stage1" if model.stage1 is not None else "stage2": model for model in found}
    if len(found) != 2 or len(by_stage) != 2:
        raise AlitokError("Two tokenizer files must be one of stage 1 and one of stage 2.")
    first, second = by_stage["stage1"], by_stage["stage2"]
    if first.codes_fingerprint() != second.codes_fingerprint():
        raise AlitokError(
            f"{paths[0]} and {paths[1]} have different encoders or codebooks; pass both stages of one tokenizer."
        )
    both = Tokenizer(replace(first.config, stage2=second.config.stage2))
    state = {**first.state_dict(), **{k: v for k, v in second.state_dict().items() if k.startswith("stage2.")}}
    both.load_state_dict(state)
    return both.eval()


def convert_to_released(directory: Path, out: Path) -> list[Path]:
    """Write the models in `directory` under released names; returns the files; `AlitokError` if it holds no model."""
    written = []
    if (directory / "tokenizer").is_dir():
        tokenizer = Tokenizer.from_pretrained(directory / "tokenizer")
        files: tuple[tuple[Stage, str], ...] = (("stage1", "AliTok_stage1.pth"), ("stage2", "AliTok.pth"))
        for stage, name in files:
            if getattr(tokenizer, stage) is not None:
                written.append(_save_released(out / name, tokenizer_to_released(tokenizer, stage)))
    if (directory / "generator").is_dir():
        generator = Generator.from_pretrained(directory / "generator")
        written.append(_save_released(out / "alitok_generator.bin", generator_to_released(generator)))
    if not written:
        raise AlitokError(f"{directory} holds neither tokenizer/ nor generator/; pass a directory with a model.")
    return written


def _save_released(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    with atomic_path(path) as part, part.open("wb") as file:  # with a path, torch hides the OSError of a full disk
        torch.save({name: tensor.detach().clone() for name, tensor in tensors.items()}, file)
    return path
