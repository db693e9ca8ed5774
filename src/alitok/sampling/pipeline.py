"""A tokenizer and a generator together: classes in, images out.

On disk: a directory with `pipeline.json` (how to sample), `tokenizer/`, `generator/` and a model card.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

from alitok.core import images as pixels
from alitok.core.checkpoint import ModelCard, load_head
from alitok.core.config import from_dict, to_dict
from alitok.core.device import DeviceName, choose_device
from alitok.core.errors import AlitokError
from alitok.core.files import write_bytes, write_json
from alitok.core.hub import locate
from alitok.generator import Generator
from alitok.sampling import SampleRequest, SamplingConfig
from alitok.sampling.decoding import PixelDecoder
from alitok.sampling.engine import Engine
from alitok.sampling.memory import most_images
from alitok.sampling.settings import EnginePrecision, SamplingOverrides
from alitok.sampling.synthesize import ImageRows, first_rows, stream_rows, synthesize
from alitok.tokenizer import Tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image

_BATCH = 64  # images sampled at a time by default
_FEW_CLASSES = 12  # that one message lists


@dataclass(frozen=True)
class Pipeline:
    """A tokenizer, the generator of its codes, both in evaluation mode on one device, and the default sampling."""

    tokenizer: Tokenizer
    generator: Generator
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    precision: EnginePrecision = "fp32"

    def __post_init__(self) -> None:
        """Reject models that were not trained for each other."""
        tokenizer, generator = self.tokenizer.config, self.generator.config
        ours = (tokenizer.prefix_length, tokenizer.grid, tokenizer.codebook_size)
        theirs = (generator.prefix, generator.grid, generator.codebook_size)
        if ours != theirs:
            raise AlitokError(
                f"This generator makes {theirs[0]} prefix and {theirs[1]} x {theirs[1]} grid codes out of {theirs[2]}, "
                f"but the tokenizer has {ours[0]}, {ours[1]} x {ours[1]} and {ours[2]}; use models trained together."
            )

    @classmethod
    def from_pretrained(
        cls,
        path_or_name: str | Path,
        *,
        device: DeviceName = "auto",
        precision: EnginePrecision = "fp32",
        offline: bool = False,
    ) -> Pipeline:
        """Load from a local directory or the hub; AlitokError if it is missing, damaged, or not a pipeline."""
        directory = locate(path_or_name, offline=offline)
        head = load_head(directory / "pipeline.json", "pipeline", "sampling")
        sampling = from_dict(SamplingConfig, head["sampling"], str(directory / "pipeline.json"))
        for part in ("tokenizer", "generator"):
            if not (directory / part).is_dir():
                raise AlitokError(f"{directory} has no {part}/, so it is not a complete pipeline; save it again.")
        place = choose_device(device)
        tokenizer = Tokenizer.from_pretrained(directory / "tokenizer").to(place)
        return cls(tokenizer, Generator.from_pretrained(directory / "generator").to(place), sampling, precision)

    @cached_property
    def engine(self) -> Engine:
        """Samples the codes; made when first used."""
        return Engine(self.generator, self.precision)

    @cached_property
    def decoder(self) -> PixelDecoder:
        """Decodes the pixels."""
        return PixelDecoder(self.tokenizer)

    def save_pretrained(self, directory: str | Path, card: ModelCard | None = None) -> None:
        """Write both models, the default sampling, and a model card as `README.md`."""
        directory = Path(directory)
        self.tokenizer.save_pretrained(directory / "tokenizer", card)
        self.generator.save_pretrained(directory / "generator", card)
        self.save_head(directory, card)

    def save_head(self, directory: str | Path, card: ModelCard | None = None) -> None:
        """Write only the default sampling and the card, beside models that are already there."""
        directory = Path(directory)
        write_json(directory / "pipeline.json", {"kind": "pipeline", "sampling": to_dict(self.sampling)})
        config = {"tokenizer": to_dict(self.tokenizer.config), "generator": to_dict(self.generator.config)}
        card = replace(card or ModelCard(directory.name), config=config)
        write_bytes(directory / "README.md", card.to_markdown().encode())

    def class_number(self, name: str | int) -> int:
        """The number of a class, given as a number or a name; case and underscores matter only if names differ in them.

        Raises AlitokError for no such class, or several, and suggests near names.
        """
        count, names = self.generator.config.classes, self.generator.class_names
        if name in names:
            return names.index(str(name))
        if not isinstance(name, str) or name.isdecimal():
            try:
                number = int(name) if isinstance(name, str) else operator.index(name)
            except TypeError:
                raise AlitokError(f"A class is a name or a whole number, not {name!r}.") from None
            if not 0 <= number < count:
                raise AlitokError(f"Class {number} does not exist; classes are 0 to {count - 1}.")
            return number
        folded = [_fold(known) for known in names]
        found = [number for number, known in enumerate(folded) if known == _fold(name)]
        if len(found) == 1:
            return found[0]
        near = difflib.get_close_matches(_fold(name), folded, n=3, cutoff=0.5)
        numbers = found or [folded.index(known) for known in near]
        if numbers:
            hint = f"near: {self._named(numbers)}"
        elif 0 < len(names) <= _FEW_CLASSES:
            hint = f"the classes are {self._named(range(count))}"
        else:
            hint = f"its classes have the numbers 0 to {count - 1}"
        raise AlitokError(f"There is {'more than one' if found else 'no'} class '{name}'; {hint}.")

    def _named(self, numbers: Iterable[int]) -> str:
        return ", ".join(f"{self.generator.class_names[number]} ({number})" for number in numbers)

    def requests(
        self,
        classes: str | int | Sequence[str | int],
        *,
        seed: int | Sequence[int] = 0,
        sampling: SamplingConfig | Sequence[SamplingConfig] | None = None,
    ) -> list[SampleRequest]:
        """One request per entry of `classes`, as in a call; AlitokError for an unknown class or another length."""
        names = [classes] if isinstance(classes, str | int) else list(classes)
        if isinstance(seed, int | Integral):
            seeds = [(int(seed), index) for index in range(len(names))]
        else:
            seeds = [(int(own), 0) for own in seed]
        chosen = sampling or self.sampling
        each = [chosen] * len(names) if isinstance(chosen, SamplingConfig) else list(chosen)
        for what, values in (("seeds", seeds), ("sampling settings", each)):
            if len(values) != len(names):
                raise AlitokError(f"There are {len(values)} {what} for {len(names)} images; give one for each.")
        return [
            SampleRequest(self.class_number(name), own, index, settings)
            for name, (own, index), settings in zip(names, seeds, each, strict=True)
        ]

    def __call__(
        self,
        classes: str | int | Sequence[str | int],
        *,
        seed: int | Sequence[int] = 0,
        sampling: SamplingConfig | Sequence[SamplingConfig] | None = None,
        guidance_scale: float | None = None,
        guidance_power: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        batch_size: int | None = None,
    ) -> list[Image]:
        """Generate one Pillow image per entry of `classes`.

        Raises AlitokError for an unknown class, or a value outside its range.

        Args:
            classes: names or numbers, one per image; a single one for a single image.
            seed: one for all images, which then differ by their index, or one per image, which then does not depend
                on its index. The same seeds, classes and settings give the same images.
            sampling: all settings at once, for all images or for each; None = the pipeline's default.
            guidance_scale, guidance_power, temperature, top_k, top_p: replace the default's; see `SamplingOverrides`.
            batch_size: images sampled at a time; it changes no image. None = 64, or as many as fit into memory.
        """
        overrides = SamplingOverrides(
            guidance_scale=guidance_scale,
            guidance_power=guidance_power,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
        )
        if overrides.given():
            if sampling is not None:
                raise AlitokError("Give either sampling or single settings such as guidance_scale, not both.")
            sampling = overrides.apply_to(self.sampling)
        return self._generate(self.requests(classes, seed=seed, sampling=sampling), batch_size)

    def complete(
        self,
        image: Image,
        rows: int,
        classes: str | int | Sequence[str | int],
        *,
        seed: int | Sequence[int] = 0,
        sampling: SamplingConfig | Sequence[SamplingConfig] | None = None,
        batch_size: int | None = None,
    ) -> list[Image]:
        """Keep the first rows of an image and generate the rest, once per entry of `classes`; else as `__call__`.

        The first rows are the tokenizer's reconstruction; they may change slightly, as its stage 2 sees all codes.

        Args:
            image: of any size; resized and center-cropped as in training.
            rows: rows of patches to keep, out of `tokenizer.config.grid`; AlitokError if out of range.
        """
        given = first_rows(self.tokenizer, image, rows)
        wanted = self.requests(classes, seed=seed, sampling=sampling)
        return self._generate([replace(request, given=given) for request in wanted], batch_size)

    def stream(
        self,
        classes: str | int | Sequence[str | int],
        *,
        seed: int | Sequence[int] = 0,
        sampling: SamplingConfig | Sequence[SamplingConfig] | None = None,
    ) -> Iterator[ImageRows]:
        """Generate images in one batch; arguments and errors as in `__call__`.

        Yields strips of pixels by the causal decoder (AlitokError without one), top to bottom, then the whole images.
        """
        wanted = self.requests(classes, seed=seed, sampling=sampling)
        return stream_rows(self.engine, self.tokenizer, self.decoder, wanted)

    def _generate(self, wanted: list[SampleRequest], batch_size: int | None) -> list[Image]:
        if batch_size is None:
            guided = any(request.sampling.guided for request in wanted)
            most = most_images(self.engine, self.tokenizer, guided=guided)
            batch_size = _BATCH if most is None else max(1, min(_BATCH, most))
        batches = synthesize(self.engine, self.decoder, wanted, batch_size=batch_size)
        return [pixels.to_pil(image) for batch in batches for image in batch]


def _fold(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())
