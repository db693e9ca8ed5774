"""The arms of the ablation, lettered as in AliTok's table (`CE` is a separate experiment there; `F-`, `V` are ours)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ArmName = Literal["A", "CE", "B", "C", "D", "E", "F", "F-", "V"]


@dataclass(frozen=True)
class Arm:
    """What one row of the table trains.

    Attributes:
        auxiliary: the loss under which the prefix codes alone reconstruct the first row.
        stage2: what a stage-2 decoder reads; None = no stage 2.
        codes_of: the arm whose codes and generator it shares, if it trains a stage-2 decoder only.
    """

    title: str
    causal_decoder: bool = True
    causal_encoder: bool = False
    prefix: bool = False
    auxiliary: bool = False
    longer: bool = False
    stage2: Literal["all codes", "grid codes"] | None = None
    codes_of: ArmName | None = None
    convolutional: bool = False


ARMS: dict[ArmName, Arm] = {
    "A": Arm("bidirectional decoder", causal_decoder=False),
    "CE": Arm("A with a causal encoder", causal_decoder=False, causal_encoder=True),
    "B": Arm("causal decoder"),
    "C": Arm("B with prefix codes", prefix=True),
    "D": Arm("C with the auxiliary loss", prefix=True, auxiliary=True),
    "E": Arm("D trained longer", prefix=True, auxiliary=True, longer=True),
    "F": Arm("D with a stage-2 decoder", prefix=True, auxiliary=True, stage2="all codes", codes_of="D"),
    "F-": Arm("F without reading the prefix", prefix=True, auxiliary=True, stage2="grid codes", codes_of="D"),
    "V": Arm("plain convolutional tokenizer", causal_decoder=False, convolutional=True),
}
USUAL_ARMS: tuple[ArmName, ...] = ("A", "CE", "B", "C", "D", "F", "F-", "V")
CURVE_ARMS: tuple[ArmName, ...] = ("A", "B")  # compared at equal PSNR, with codebooks of several sizes
