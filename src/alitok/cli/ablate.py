"""`alitok ablate`: what each part of the method does, on your own images."""

from __future__ import annotations

from alitok.apps.ablate.options import AblateOptions
from alitok.cli import typed_command


def ablate(options: AblateOptions) -> None:
    """Train tokenizers that differ in one thing each, and a generator over the codes of each, and compare them.

    Arms: A bidirectional decoder; CE a causal encoder instead; B causal decoder; C with prefix codes; D with the
    auxiliary loss; E trained longer; F with a stage-2 decoder, F- one that does not read the prefix codes; V a plain
    convolutional tokenizer. All have one budget and one data order. A and B are also trained with half and twice the
    codebook size, so that bits per image can be compared at equal PSNR.

    Rerun to resume; more seeds, arms and codebook sizes are added to the finished ones.
    """
    from alitok.apps.ablate.ablate import run_ablation

    run_ablation(options, command=typed_command())
