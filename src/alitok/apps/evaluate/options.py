"""The options of `alitok eval`. Imports no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from alitok.core.choices import DeviceName, SplitName
from alitok.core.errors import AlitokError
from alitok.sampling.settings import EnginePrecision, SamplingOverrides

FeaturesName = Literal["inception", "classifier"]
EvaluationKind = Literal["generation", "reconstruction"]
_Several = Parameter(negative="", consume_multiple=True, show_default=False)


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """What all evaluations ask."""

    features: FeaturesName = "inception"
    """inception, whose distance is FID; or classifier: a small network trained on the classes of the data, for which
    nothing is downloaded and whose distance is not FID"""

    inception_weights: Path | None = None
    """file of the TensorFlow Inception's weights; default: PyTorch's cache, or a download"""

    device: DeviceName = "auto"
    """where to compute"""

    fresh: Annotated[bool, Parameter(negative="")] = False
    """delete what an earlier start left in or beside OUT, and start over"""


@dataclass(frozen=True, kw_only=True)
class GenerationOptions(FeatureOptions):
    """What `alitok eval generation` compares, and how samples are generated."""

    out: Path
    """a directory for evaluation.json, report.html and the features of the images"""

    reference: str | None = None
    """what samples should look like: ADM's npz (its mu and sigma are used as they are), a file of `alitok eval
    reference`, or a source of images; default: the training images of --data"""

    data: str | None = None
    """the real images: for --features classifier to train on, for nearest neighbours, and the default reference"""

    data_seed: int = 0
    """seed of the train/val split of --data, where the data has none; use that of the training"""

    num: int | None = None
    """total number of samples, with a model"""

    per_class: int | None = None
    """samples of each class, with a model; default without --num: 50"""

    classes: Annotated[tuple[str, ...], _Several] = ()
    """class names or numbers; default: all of the model's"""

    seed: int = 0
    """seed of the samples, which differ by their number"""

    batch_size: int | None = None
    """images sampled at a time; default: 256 on a GPU and 64 elsewhere, or what fits into memory"""

    precision: EnginePrecision = "fp32"
    """of the generator: bf16 and int8 (on a CPU) are faster and not exact"""

    sampling: Annotated[SamplingOverrides, Parameter(name="*")] = field(default_factory=SamplingOverrides)
    """settings that replace the model's own"""

    sweep: str | None = None
    """settings to search first: `scale`, `power` or `scale,power`. Each combination is measured on fewer samples, and
    the one with the smallest distance on all"""

    scales: Annotated[tuple[float, ...], _Several] = ()
    """guidance scales to try; default: five around the model's own"""

    powers: Annotated[tuple[float, ...], _Several] = ()
    """guidance powers to try; default: five around the model's own"""

    sweep_num: int | None = None
    """samples of each combination; default: 5000, at most all"""

    def swept(self) -> dict[str, tuple[float, ...]]:
        """The values to try by name, `scale` or `power`; no values stand for some around the model's own.

        Raises:
            AlitokError: an unknown setting, or values of one that is not swept.
        """
        values = {"scale": self.scales, "power": self.powers}
        names = [name.strip() for name in self.sweep.split(",")] if self.sweep else []
        for name in names:
            if name not in values:
                raise AlitokError(f"--sweep takes scale, power, or scale,power, not '{name}'.")
        for name, given in values.items():
            if given and name not in names:
                raise AlitokError(f"--{name}s needs --sweep {name}; add it, or leave the values out.")
        return {name: values[name] for name in names}


@dataclass(frozen=True, kw_only=True)
class ReconstructionOptions(FeatureOptions):
    """What `alitok eval reconstruction` measures a tokenizer on."""

    data: str
    """the real images; those of the split are reconstructed, and are the reference"""

    out: Path
    """a directory for evaluation.json, report.html and the features of the images"""

    split: SplitName = "val"
    """which images"""

    num: int | None = None
    """how many of them, chosen by the seed; default: all"""

    seed: int = 0
    """seed of the train/val split, where the data has none; with another than the training's, some were trained on"""

    reference: str | None = None
    """a file of `alitok eval reference --split val`, instead of the images' own statistics"""

    lpips_vgg: str | None = None
    """torchvision's VGG16 weights for LPIPS; default: its cache, or a download"""

    lpips_heads: str | None = None
    """the five heads of LPIPS 0.1; default: those of the lpips package"""

    batch_size: int = 64
    """images at a time"""


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions(FeatureOptions):
    """What `alitok eval reference` takes statistics of."""

    out: Path
    """a file that ends in .npz: 68 MB with Inception, and features of up to 10,000 images, 82 MB"""

    size: int
    """image size in pixels: that of the images to evaluate later"""

    split: SplitName = "train"
    """which images"""

    kind: EvaluationKind | None = None
    """what it is a reference for; default: generation for train, reconstruction for val"""

    seed: int = 0
    """seed of the train/val split, where the data has none"""
