"""Training of the tokenizer: stage 1 trains encoder, codebook and causal decoder; stage 2 a decoder on frozen codes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import nn

from alitok.core import images as pixels
from alitok.core.config import config
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.losses.objective import LossWeights, Objective
from alitok.losses.perceptual import FeatureNetwork, NetworkName, PerceptualWeights
from alitok.metrics.codes import CodeUsage, UsageWindow
from alitok.metrics.reconstruction import psnr
from alitok.tokenizer import Tokenizer
from alitok.tokenizer.model import Reconstruction, Stage
from alitok.tokenizer.quantizer import Candidates
from alitok.train.adversary import Adversary, AdversaryConfig
from alitok.train.predictability import PredictabilityConfig, measure_predictability
from alitok.train.schedule import Phase, require_phases
from alitok.train.task import Batch, Evaluation, LoopConfig, LossTerms, StepInfo, Task

_BLOCK = 64  # validation images per forward pass
_SHOWN = 16  # validation images on the sheet of reconstructions
_CODES_PER_ENTRY = 64  # codes per codebook entry in the window over which codebook use is measured


@config
class TokenizerPhase(Phase):
    """A phase with its own objective."""

    losses: LossWeights = LossWeights()
    discriminator: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.losses.adversarial > 0 and not self.discriminator:
            raise AlitokError("losses.adversarial needs discriminator = true in the same phase")


@config
class TokenizerTraining:
    """Training of one stage.

    Attributes:
        predictability: how often to measure the predictability of the codes in stage 1.
        usage_alarm: fraction of the highest codebook use so far below which a warning is printed.
    """

    loop: LoopConfig
    phases: tuple[TokenizerPhase, ...]
    adversary: AdversaryConfig = AdversaryConfig()
    perceptual: PerceptualWeights = PerceptualWeights()
    predictability: PredictabilityConfig = PredictabilityConfig()
    usage_alarm: float = 0.8

    def __post_init__(self) -> None:
        require_phases(self.phases)
        if self.predictability.every % self.loop.evaluate_every:
            raise AlitokError(
                f"predictability.every {self.predictability.every} must be a multiple of "
                f"loop.evaluate_every {self.loop.evaluate_every}"
            )

    def networks(self) -> tuple[NetworkName, ...]:
        """The feature networks that any phase needs."""
        return tuple(dict.fromkeys(name for phase in self.phases for name in phase.losses.networks()))


def freeze_codes(tokenizer: Tokenizer) -> None:
    """Freeze all but the stage-2 decoder."""
    assert tokenizer.stage2 is not None
    tokenizer.requires_grad_(False)
    tokenizer.stage2.requires_grad_(True)


class TokenizerTask(Task):
    """Stage 1 or stage 2 as a task of the loop.

    `tokenizer` is trained in place; in stage 2 it has a stage-2 decoder, and all else is frozen. `batches` maps a batch
    number to endless batches of uint8 images (B, 3, h, h) and labels; `val` and, from training, `predictability_images`
    are (N, 3, h, h) uint8; `networks` are those named by `training.networks()`.
    """

    phases: tuple[TokenizerPhase, ...]

    def __init__(
        self,
        tokenizer: Tokenizer,
        stage: Stage,
        training: TokenizerTraining,
        batches: Callable[[int], Iterator[Batch]],
        val: np.ndarray,
        *,
        networks: Mapping[NetworkName, FeatureNetwork] | None = None,
        predictability_images: np.ndarray | None = None,
        seed: int = 0,
    ) -> None:
        self.name = stage
        self.phases = training.phases
        self.batches = batches
        self._tokenizer, self._stage, self._training = tokenizer, stage, training
        self._val = torch.from_numpy(val)
        self._predictability_images, self._seed = predictability_images, seed
        networks = networks or {}
        assert set(networks) >= set(training.networks())
        self._objective = Objective(networks, tokenizer.config.patch_size)
        self._adversary = (
            Adversary(training.adversary, tokenizer.decoder(stage).last_layer)
            if any(phase.discriminator for phase in self.phases)
            else None
        )
        self._candidates: Candidates | None = None
        self._usage: UsageWindow | None = None
        self.modules = {"model": tokenizer}
        self.optimizers = {}
        if stage == "stage2":
            freeze_codes(tokenizer)
        else:
            if tokenizer.stage2 is not None:
                tokenizer.stage2.requires_grad_(False)  # unused, and DDP waits for every trainable parameter
            codes = training.loop.batch_size * tokenizer.config.sequence_length
            window = math.ceil(_CODES_PER_ENTRY * tokenizer.config.codebook_size / codes)
            self._usage = UsageWindow(tokenizer.config.codebook_size, window, training.usage_alarm)
            self.modules["usage"] = self._usage
        if self._adversary is not None:
            self.modules |= self._adversary.modules()
            self.optimizers["discriminator"] = training.adversary.optimizer

    def to(self, device: torch.device) -> None:
        """Move the tokenizer, the discriminator and the feature networks."""
        super().to(device)
        self._objective.to(device)

    def begin(self) -> None:
        """Discard what the previous step collected."""
        self._candidates = None
        if self._adversary is not None:
            self._adversary.begin()

    def losses(self, models: Mapping[str, nn.Module], batch: Batch, info: StepInfo) -> Iterator[LossTerms]:
        """The tokenizer's losses, then the discriminator's in phases that have one."""
        images = pixels.to_float(batch[0])
        phase = self.phases[info.phase]
        adversary = self._adversary if phase.discriminator else None
        if adversary is not None and adversary.discriminator_only(info.phase_step):
            with torch.no_grad():
                rebuilt = self._tokenizer(images, self._stage).images
        else:
            result: Reconstruction = models["model"](images, self._stage)
            first = self._stage == "stage1"
            terms = self._objective(
                images,
                result.images,
                phase.losses,
                prefix_strip=result.prefix_strip if first else None,
                quantizer_loss=result.quantizer_loss if first else None,
            )
            if adversary is not None:
                verdict = adversary.decoder_loss(result.images, terms.pop("reconstruction"), phase.losses.adversarial)
                terms |= verdict.logged
                terms["loss"] = terms["loss"] + verdict.minimise
            terms.pop("reconstruction", None)
            yield LossTerms(terms["loss"], terms)
            rebuilt = result.images.detach()
            if self._usage is not None:
                found = self._tokenizer.quantizer.candidates(result.features)
                self._candidates = found if self._candidates is None else self._candidates.merge(found)
        if adversary is not None and adversary.trains_discriminator(info.phase_step):
            yield adversary.discriminator_loss(models["discriminator"], images, rebuilt, phase.losses)

    def update(self, world: World) -> None:
        """Stage 1: one step of online clustering on the features of this step, over all ranks."""
        if self._candidates is not None:
            assert self._usage is not None
            candidates = self._candidates.all_reduced(world)
            self._tokenizer.quantizer.cluster(candidates)
            self._usage.update(candidates.counts)
        if self._adversary is not None:
            self._adversary.update(world)

    def report(self) -> Evaluation:
        """Codebook use and perplexity over the last full window, with a warning when use has dropped."""
        if self._usage is None:
            return Evaluation()
        fallen = self._usage.fallen()
        return Evaluation(self._usage.report(), notices=() if fallen is None else (fallen,))

    @torch.no_grad()
    def evaluate(self, step: int) -> Evaluation:
        """PSNR and codebook use on validation images, a sheet of reconstructions, predictability when due."""
        model = self._tokenizer
        device = model.quantizer.codebook.device
        usage, decibels, codes = CodeUsage(model.config.codebook_size), [], []
        for block in self._val.split(_BLOCK):
            originals = pixels.to_float(block.to(device))
            codes.append(model.encode(originals))
            reconstructions = model.decode(codes[-1], self._stage)
            usage.update(codes[-1])
            decibels.append(psnr(originals, reconstructions))
        scalars = {"val_psnr": torch.cat(decibels).mean().item(), "val_codebook_use": usage.use}
        spread = self._val[:: math.ceil(len(self._val) / _SHOWN)]  # images are often sorted by class
        originals = pixels.to_float(spread.to(device))
        sheet = torch.cat([originals, model.reconstruct(originals, self._stage)])
        image = pixels.grid(pixels.to_uint8(sheet).cpu().numpy(), columns=len(spread))
        every = self._training.predictability.every
        if every and self._predictability_images is not None and step % every == 0:
            scalars |= self._predictability(torch.cat(codes))
        return Evaluation(scalars, images={"reconstructions": image})

    def _predictability(self, val: torch.Tensor) -> dict[str, float]:
        assert self._predictability_images is not None
        model, settings = self._tokenizer, self._training.predictability
        device = val.device
        blocks = torch.from_numpy(self._predictability_images[: settings.images]).split(_BLOCK)
        codes = torch.cat([model.encode(pixels.to_float(block.to(device))) for block in blocks])
        found = measure_predictability(
            codes,
            val[: settings.val_images],
            grid=model.config.grid,
            prefix=model.config.prefix_length,
            codebook_size=model.config.codebook_size,
            config=settings,
            device=device,
            seed=self._seed,
        )
        return {
            "predictability_accuracy": found.accuracy,
            "predictability_bits_per_image": found.bits_per_image,
            "predictability_grid_bits_per_image": found.grid_bits_per_image,
        }
