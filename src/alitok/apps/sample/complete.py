"""`alitok complete`: a sheet with an image, its reconstruction, and completions of its first rows by a saved model."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from rich.console import Console

from alitok.apps.sample.options import CompleteOptions
from alitok.core import images as pixels
from alitok.core.console import counted, reporter
from alitok.core.errors import AlitokError
from alitok.core.files import write_bytes
from alitok.core.sheets import captioned_sheet
from alitok.data.crops import centre_crop, to_array
from alitok.data.decode import decode, reason
from alitok.sampling.pipeline import Pipeline

_COLUMNS = 8
_MIN_SIZE = 96  # px: smaller images are enlarged, or their captions would not fit


def run_complete(model: str, path: Path, options: CompleteOptions) -> None:
    """Write the sheet.

    Raises:
        AlitokError: the model or the image cannot be used, or the options do not fit them.
    """
    if options.count < 1:
        raise AlitokError(f"--count must be at least 1, not {options.count}.")
    if options.out.suffix.lower() != ".png":
        raise AlitokError(f"--out {options.out} must end in .png: the sheet is a PNG.")
    if options.out.resolve() == path.resolve():
        raise AlitokError(f"--out {options.out} is the image itself, which the sheet would replace; give another file.")
    original = _read(path)
    pipeline = Pipeline.from_pretrained(model, device=options.device, precision=options.precision)
    number = _class(pipeline, path, options.class_name)
    completions = pipeline.complete(
        original,
        options.rows,
        [number] * options.count,
        seed=options.seed,
        sampling=options.sampling.apply_to(pipeline.sampling),
        batch_size=options.batch_size,
    )
    name = (pipeline.generator.class_names or {number: str(number)})[number]
    crop = centre_crop(original, pipeline.tokenizer.config.image_size)
    scale = max(1, -(-_MIN_SIZE // crop.width))
    size = crop.width * scale, crop.height * scale
    images = (crop, _rebuilt(pipeline, crop), *completions)
    shown = [image.resize(size, Image.Resampling.NEAREST) for image in images]
    captions = ["image", "reconstruction", *[name] * options.count]
    write_bytes(options.out, captioned_sheet(shown, captions, min(_COLUMNS, len(shown))))
    shown_class = name if name == str(number) else f"{name} ({number})"
    reporter(Console())(
        f"{options.rows} of {pipeline.tokenizer.config.grid} rows of {path} kept, "
        f"{counted(options.count, 'completion')} as {shown_class}: {options.out}"
    )


def _read(path: Path) -> Image.Image:
    try:
        return decode(path.read_bytes())
    except Exception as error:  # on damaged files Pillow's plugins raise nearly anything
        raise AlitokError(f"{path} {reason(error)}; give another image.") from None


def _class(pipeline: Pipeline, path: Path, class_name: str | None) -> int:
    if class_name is not None:
        return pipeline.class_number(class_name)
    if pipeline.generator.config.classes == 1:
        return 0
    folder = path.resolve().parent.name
    if folder in pipeline.generator.class_names:
        return pipeline.generator.class_names.index(folder)
    raise AlitokError(f"{path} is not in a folder that is named after a class of the model; give --class.")


def _rebuilt(pipeline: Pipeline, crop: Image.Image) -> Image.Image:
    tokenizer = pipeline.tokenizer
    device = tokenizer.quantizer.codebook.device
    with torch.inference_mode():
        image = pixels.to_float(torch.from_numpy(to_array(crop)))[None].to(device)
        return pixels.to_pil(pixels.to_uint8(tokenizer.reconstruct(image))[0].cpu().numpy())
