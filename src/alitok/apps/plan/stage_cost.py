"""What one training costs over any number of GPUs: FLOPs, memory and seconds of a step, and the fastest layout."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from alitok.apps.plan.hardware import Gpu
from alitok.apps.plan.step_trace import Rehearsal, StepTrace, Weights
from alitok.apps.plan.traffic import Assumptions, Messages, Ring, StepTime, step_time
from alitok.recipes.flops import generator_step_flops, tokenizer_step_flops
from alitok.recipes.presets import Recipe, StageName
from alitok.train.parallel import Parallel

_TRACED = 8  # images of the microbatch that is traced
_MOMENTS = 2  # of AdamW, per weight
_GATHERED = 2  # blocks whose weights FSDP gathers at a time: the current and the next


@dataclass(frozen=True)
class Layout:
    """How a training is distributed."""

    parallel: Parallel
    activation_checkpointing: bool

    @property
    def name(self) -> str:
        """For tables."""
        return self.parallel.upper() + (" + act. ckpt" if self.activation_checkpointing else "")


LAYOUTS = (Layout("ddp", False), Layout("ddp", True), Layout("fsdp", False), Layout("fsdp", True))


@dataclass(frozen=True)
class Footprint:
    """Peak bytes of one process in a step.

    Attributes:
        images: of a microbatch; `largest` of the largest that fits, 0 = none.
        weights: trained and frozen, float32.
        optimizer: AdamW's moments, and the EMA of the weights.
        activations: all else that a step allocates: activations, bf16 copies of weights, temporaries.
    """

    layout: Layout
    images: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    largest: int

    @property
    def total(self) -> int:
        """Of all parts."""
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class ActivationLine:
    """Bytes of a step as a linear function of the images of a microbatch, through two that were traced."""

    fixed: float
    each: float

    @classmethod
    def through(cls, low: tuple[int, int], high: tuple[int, int]) -> ActivationLine:
        """The line through two steps, each (images, bytes)."""
        each = (high[1] - low[1]) / (high[0] - low[0])
        return cls(high[1] - each * high[0], each)

    def at(self, images: int) -> int:
        """Bytes for a number of images."""
        return round(self.fixed + self.each * images)

    def most(self, room: float) -> int:
        """Images that fit into `room` bytes."""
        return max(0, int((room - self.fixed) / self.each))


def static_bytes(weights: Weights, layout: Layout, processes: int, *, ema: bool) -> tuple[int, int, int]:
    """Bytes of weights, of gradients, and of moments with the EMA, of one process."""
    shards = processes if layout.parallel == "fsdp" else 1
    own = weights.blocks // shards + weights.whole
    trained = own + weights.discriminator
    return trained + weights.frozen, trained, _MOMENTS * trained + (own if ema else 0)


@dataclass(frozen=True)
class Choice:
    """A way to distribute a step over GPUs: `microbatches` of `images` each per process."""

    layout: Layout
    microbatches: int
    images: int

    @property
    def options(self) -> str:
        """For `alitok train --set`."""
        return (
            f"engine.parallel={self.layout.parallel} engine.grad_accum_steps={self.microbatches} "
            f"engine.activation_checkpointing={str(self.layout.activation_checkpointing).lower()}"
        )


class StageCost:
    """What one stage costs, with forward passes in bf16 if `half`; AlitokError if a feature network cannot be built."""

    def __init__(self, recipe: Recipe, stage: StageName, classes: int, half: bool) -> None:
        self.stage, self.training, self._half = stage, recipe.training(stage), half
        self.sequence_length = recipe.tokenizer.sequence_length
        self.rehearsal = Rehearsal(recipe, stage, classes)
        self._recipe, self._classes = recipe, classes
        self._ema = bool(self.training.loop.optimizer.ema_decay)
        self._traces = self._trace()

    def _trace(self) -> list[StepTrace]:
        """One step of each phase; phases with the same networks share a trace."""
        seen: dict[object, StepTrace] = {}
        traces = []
        for index, phase in enumerate(self.training.phases):
            losses = getattr(phase, "losses", None)
            kind = None if losses is None else (losses.networks(), getattr(phase, "discriminator", False))
            if kind not in seen:
                seen[kind] = self.rehearsal.step(_TRACED, phase=index, half=self._half)
            traces.append(seen[kind])
        return traces

    @property
    def longest(self) -> int:
        """Index of the phase with the most work."""
        phases = self.training.phases
        return max(range(len(phases)), key=lambda index: phases[index].steps * self._traces[index].flops)

    @cached_property
    def _bare(self) -> StepTrace:
        if self.stage == "generator":
            return self._traces[0]
        bare = Rehearsal(self._recipe, self.stage, self._classes, losses=False)
        return bare.step(_TRACED, half=self._half)

    @cached_property
    def _checkpointed(self) -> StepTrace:
        return self._step(_TRACED, checkpointing=True)

    @cached_property
    def _lines(self) -> dict[bool, ActivationLine]:
        """Bytes over images in the heaviest phase, by activation checkpointing."""
        half, whole = _TRACED // 2, _TRACED
        traces = {False: self._traces[self._heaviest], True: self._checkpointed}
        return {
            checkpointing: ActivationLine.through(
                (half, self._step(half, checkpointing).held_bytes), (whole, trace.held_bytes)
            )
            for checkpointing, trace in traces.items()
        }

    @property
    def _heaviest(self) -> int:
        return max(range(len(self._traces)), key=lambda index: self._traces[index].held_bytes)

    def _step(self, images: int, checkpointing: bool) -> StepTrace:
        phase, half = self._heaviest, self._half
        return self.rehearsal.step(images, phase=phase, half=half, activation_checkpointing=checkpointing)

    def flops(self, phase: int) -> tuple[int, int]:
        """Of one image of a phase: of the model by formula, and of its feature networks and discriminator."""
        recipe = self._recipe
        if self.stage == "generator":
            return generator_step_flops(recipe.generator_size.config(recipe.tokenizer, self._classes)), 0
        model = tokenizer_step_flops(recipe.tokenizer, self.stage)
        return model, (self._traces[phase].flops - self._bare.flops) // _TRACED

    def footprints(self, images: int, processes: int, room: float) -> tuple[Footprint, ...]:
        """Memory of each layout if each process takes `images` at once, on a GPU with `room` bytes."""
        found = []
        for layout in LAYOUTS:
            if layout.parallel == "fsdp" and processes == 1:
                continue
            static = static_bytes(self.rehearsal.weights, layout, processes, ema=self._ema)
            gathered = _GATHERED * self.rehearsal.largest_block if layout.parallel == "fsdp" else 0
            line = self._lines[layout.activation_checkpointing]
            largest = line.most(room - (sum(static) + gathered))
            found.append(Footprint(layout, images, *static, line.at(images) + gathered, largest))
        return tuple(found)

    def choose(self, processes: int, gpu: Gpu, room: float, rate: float, assumed: Assumptions) -> Choice | None:
        """The fastest layout that fits, with as few microbatches as possible; None if none fits."""
        images = self.training.loop.batch_size // processes
        counts = [count for count in range(1, images + 1) if images % count == 0]
        fitting = []
        for found in self.footprints(images, processes, room):
            fits = [count for count in counts if images // count <= found.largest]
            if fits:
                fitting.append(Choice(found.layout, fits[0], images // fits[0]))
        times = {choice: self.time(self.longest, choice, processes, gpu, rate, assumed).seconds for choice in fitting}
        return min(fitting, key=lambda choice: times[choice], default=None)

    def time(self, phase: int, choice: Choice, processes: int, gpu: Gpu, rate: float, assumed: Assumptions) -> StepTime:
        """Of a step of a phase."""
        model, losses = self.flops(phase)
        trace, heaviest = self._traces[phase], self._traces[self._heaviest]
        more_flops, more_kernels = 0.0, 0
        if choice.layout.activation_checkpointing:  # the blocks' forward pass once more, in whichever phase
            more_flops = (self._checkpointed.flops - heaviest.flops) / _TRACED
            more_kernels = self._checkpointed.kernels - heaviest.kernels
        images = choice.microbatches * choice.images
        return step_time(
            flops=images * (model + losses + more_flops),
            kernels=trace.kernels + more_kernels,
            microbatches=choice.microbatches,
            rate=rate,
            messages=self._messages(phase),
            parallel=choice.layout.parallel,
            ring=Ring.over(gpu, processes, assumed),
            assumed=assumed,
        )

    def _messages(self, phase: int) -> Messages:
        weights = self.rehearsal.weights
        adversarial = getattr(self.training.phases[phase], "discriminator", False)
        config = self._recipe.tokenizer
        small, size = 1, 4  # whether all is finite
        if self.stage == "stage1":  # distances, ranks, counts, features
            small, size = small + 4, size + config.codebook_size * (4 + 8 + 8 + 4 * config.code_width)
        if adversarial:
            small += 1
        return Messages(
            blocks=weights.blocks,
            whole=weights.whole + (weights.discriminator if adversarial else 0),
            block=self.rehearsal.largest_block,
            count=self.rehearsal.blocks,
            small=small,
            small_bytes=size,
        )

    def checkpoint_bytes(self) -> int:
        """Weights and buffers, moments of all that is trained, and the EMA."""
        weights = self.rehearsal.weights
        ema = weights.trained if self._ema else 0
        return weights.saved + _MOMENTS * (weights.trained + weights.discriminator) + ema
