"""Published results on ImageNet, 256 x 256, as tables beside a measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from alitok.metrics.inception import OFFICIAL
from alitok.recipes.models import IMAGENET_CLASSES
from alitok.recipes.presets import PUBLISHED_GFID

_IMAGE_SIZE = 256


@dataclass(frozen=True)
class PublishedRow:
    """One row of a table, formatted; `measured` marks a result of this evaluation."""

    name: str
    values: tuple[str, ...]
    measured: bool = False


@dataclass(frozen=True)
class Published:
    """A table of published results; `comparability` names the protocol, and how this evaluation differs from it."""

    heading: str
    columns: tuple[str, ...]
    rows: tuple[PublishedRow, ...]
    comparability: str


@dataclass(frozen=True)
class Generated:
    """Results of a generator, guided except `plain_gfid`, None if unpublished; speed on an A800, fp32, batch 64."""

    name: str
    parameters: str = ""
    plain_gfid: float | None = None
    gfid: float | None = None
    inception_score: float | None = None
    images_per_second: float | None = None


@dataclass(frozen=True)
class Ablated:
    """One step of the paper's ablation with generator B, None where not published; top-1 token accuracy in percent."""

    name: str
    accuracy: float
    gfid: float | None
    rfid: float


GENERATORS = (
    #                                parameters  no guidance  guided                               IS     images/s
    Generated("AliTok-B", "177M", 2.40, PUBLISHED_GFID["alitok-256-B"], 319.5),
    Generated("AliTok-L", "318M", 1.98, PUBLISHED_GFID["alitok-256-L"], 326.2, 10.1),
    Generated("AliTok-XL", "662M", 1.88, PUBLISHED_GFID["alitok-256-XL"], 306.3, 6.3),
    Generated("AliTok-B, released weights", "177M", None, PUBLISHED_GFID["alitok-256-v1-B"]),
    Generated("AliTok-L, released weights", "318M", None, PUBLISHED_GFID["alitok-256-v1-L"]),
    Generated("AliTok-XL, released weights", "662M", None, PUBLISHED_GFID["alitok-256-v1-XL"]),
    Generated("LightningDiT", "675M", 2.17, 1.35, 295.3, 0.6),
    Generated("RAR-XXL", "1.5B", 3.26, 1.48, 326.0, 5.0),
    Generated("MAR-H", "943M", 2.35, 1.55, 303.7, 0.3),
    Generated("VAR-d30", "2B", None, 1.92, 323.1),
    Generated("LlamaGen-3B", "3B", 9.38, 2.18, 263.3),
)

ABLATION = (
    Ablated("A: bidirectional decoder, no prefix", 5.4, 2.96, 0.98),
    Ablated("causal encoder instead", 11.2, None, 1.56),
    Ablated("B: causal decoder", 10.7, 1.88, 1.07),
    Ablated("C: B and prefix codes", 9.7, 1.86, 1.01),
    Ablated("D: C and the first row's loss", 10.2, 1.82, 1.02),
    Ablated("E: D with 800 epochs", 10.5, 1.47, 0.91),
    Ablated("F: E and stage 2", 10.5, 1.44, 0.86),
)


def applies(*, classes: int, image_size: int, network: str) -> bool:
    """Whether the published results are of an evaluation's kind; `network` is the feature network's name."""
    return (classes, image_size, network) == (IMAGENET_CLASSES, _IMAGE_SIZE, OFFICIAL)


def generation_table(measured: Generated | None = None, differences: tuple[str, ...] = ()) -> Published:
    """Results of generators, first the measured one; `differences` from the protocol, such as "10,000 samples"."""
    rows = [] if measured is None else [_generated(measured, measured=True)]
    return Published(
        "Published results, ImageNet 256 x 256",
        ("parameters", "gFID, no guidance", "gFID, guided", "IS, guided", "images/s (A800, fp32, batch 64)"),
        (*rows, *(_generated(row) for row in GENERATORS)),
        _comparability("50,000 samples, 50 of each class; the reference statistics of ADM", differences),
    )


def reconstruction_table(measured: Mapping[str, float] | None = None, differences: tuple[str, ...] = ()) -> Published:
    """The paper's ablation, first the measured rFID by name; `differences` from the paper's protocol."""
    rows = [PublishedRow(name, ("", "", f"{rfid:.2f}"), measured=True) for name, rfid in (measured or {}).items()]
    published = [
        PublishedRow(row.name, (f"{row.accuracy:.1f} %", _number(row.gfid, 2), _number(row.rfid, 2)))
        for row in ABLATION
    ]
    return Published(
        "Published results, ImageNet 256 x 256: the paper's ablation",
        ("top-1 token accuracy, generator B", "gFID, guided", "rFID"),
        (*rows, *published),
        _comparability("all 50,000 validation images, and the same images as the reference", differences),
    )


def _generated(row: Generated, measured: bool = False) -> PublishedRow:
    numbers = ((row.plain_gfid, 2), (row.gfid, 2), (row.inception_score, 1), (row.images_per_second, 1))
    return PublishedRow(row.name, (row.parameters, *(_number(*number) for number in numbers)), measured)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _comparability(protocol: str, differences: tuple[str, ...]) -> str:
    rule = f"Comparable only under the same protocol: {protocol}; Inception with its official weights."
    return f"{rule} Differences here: {'; '.join(differences)}." if differences else rule
