"""One training of a recipe, ready to be asked what it costs over any number of GPUs.

Enters: a recipe and a stage. Leaves: FLOPs, memory and seconds of a step, and the fastest way to lay it over GPUs that
their memory allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from alitok.apps.plan.footprint import LAYOUTS, ActivationLine, Footprint, Layout, footprint
from alitok.apps.plan.hardware import Gpu
from alitok.apps.plan.step_trace import Rehearsal, StepTrace
from alitok.apps.plan.traffic import Assumptions, Messages, Ring, StepTime, step_time
from alitok.recipes.flops import generator_step_flops, tokenizer_step_flops
from alitok.recipes.presets import Recipe, StageName

_FOLLOWED = 8  # images of the microbatch that is followed


@dataclass(frozen=True)
class Choice:
    """A way to lay a step over GPUs.

    Attributes:
        layout: what is shared and recomputed.
        microbatches: that a process takes one after the other.
        images: of each.
    """

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
    """What one stage costs.

    Args:
        recipe: the run's.
        stage: which training.
        classes: of the images.
        half: whether forward passes are in bf16.

    Raises:
        AlitokError: a feature network cannot be built.
    """

    def __init__(self, recipe: Recipe, stage: StageName, classes: int, half: bool) -> None:
        self.stage, self.training, self._half = stage, recipe.training(stage), half
        self.sequence_length = recipe.tokenizer.sequence_length
        self.rehearsal = Rehearsal(recipe, stage, classes)
        self._recipe, self._classes = recipe, classes
        self._traces = self._follow()

    def _follow(self) -> list[StepTrace]:
        """One step of each phase; phases with the same networks are alike."""
        seen: dict[object, StepTrace] = {}
        traces = []
        for place, phase in enumerate(self.training.phases):
            losses = getattr(phase, "losses", None)
            kind = None if losses is None else (losses.networks(), getattr(phase, "discriminator", False))
            if kind not in seen:
                seen[kind] = self.rehearsal.step(_FOLLOWED, phase=place, half=self._half)
            traces.append(seen[kind])
        return traces

    @property
    def longest(self) -> int:
        """The place of the phase with the most work."""
        phases = self.training.phases
        return max(range(len(phases)), key=lambda place: phases[place].steps * self._traces[place].flops)

    @cached_property
    def _bare(self) -> StepTrace:
        """A step without feature networks and discriminator."""
        if self.stage == "generator":
            return self._traces[0]
        bare = Rehearsal(self._recipe, self.stage, self._classes, losses=False)
        return bare.step(_FOLLOWED, half=self._half)

    @cached_property
    def _again(self) -> StepTrace:
        """The heaviest phase where blocks keep no activations."""
        return self._step(_FOLLOWED, activation_checkpointing=True)

    @cached_property
    def _lines(self) -> dict[bool, ActivationLine]:
        """Bytes over images in the heaviest phase, without and with recomputing."""
        whole = {False: self._traces[self._heaviest], True: self._again}
        half = {
            activation_checkpointing: self._step(_FOLLOWED // 2, activation_checkpointing)
            for activation_checkpointing in whole
        }
        return {
            activation_checkpointing: ActivationLine.through(
                (_FOLLOWED // 2, half[activation_checkpointing].held_bytes),
                (_FOLLOWED, whole[activation_checkpointing].held_bytes),
            )
            for activation_checkpointing in whole
        }

    @property
    def _heaviest(self) -> int:
        """The place of the phase that holds most."""
        return max(range(len(self._traces)), key=lambda place: self._traces[place].held_bytes)

    def _step(self, images: int, activation_checkpointing: bool) -> StepTrace:
        return self.rehearsal.step(
            images, phase=self._heaviest, half=self._half, activation_checkpointing=activation_checkpointing
        )

    def flops(self, place: int) -> tuple[int, int]:
        """Of one image of the phase: of the model by formula, and of what else judges it."""
        recipe = self._recipe
        if self.stage == "generator":
            return generator_step_flops(recipe.generator_size.config(recipe.tokenizer, self._classes)), 0
        model = tokenizer_step_flops(recipe.tokenizer, self.stage)
        return model, (self._traces[place].flops - self._bare.flops) // _FOLLOWED

    def footprints(self, share: int, processes: int, room: float) -> tuple[Footprint, ...]:
        """Memory of each layout for a process's `share` of the batch at once."""
        average = bool(self.training.loop.optimizer.ema_decay)
        return tuple(
            footprint(
                self.rehearsal,
                self._lines[layout.activation_checkpointing],
                layout,
                images=share,
                processes=processes,
                average=average,
                room=room,
            )
            for layout in LAYOUTS
            if processes > 1 or layout.parallel == "ddp"
        )

    def choose(self, processes: int, gpu: Gpu, room: float, rate: float, assumed: Assumptions) -> Choice | None:
        """The fastest layout that fits, with as few microbatches as its memory allows; None if none does."""
        share = self.training.loop.batch_size // processes
        fitting = []
        for found in self.footprints(share, processes, room):
            counts = [count for count in range(1, share + 1) if share % count == 0]
            fits = [count for count in counts if share // count <= (found.largest or 0)]
            if fits:
                fitting.append(Choice(found.layout, fits[0], share // fits[0]))
        times = {choice: self.time(self.longest, choice, processes, gpu, rate, assumed).seconds for choice in fitting}
        return min(fitting, key=lambda choice: times[choice], default=None)

    def fallback(self, processes: int) -> Choice:
        """What would be taken if memory were no matter."""
        share = self.training.loop.batch_size // processes
        return Choice(LAYOUTS[0], 1, share)

    def time(self, place: int, choice: Choice, processes: int, gpu: Gpu, rate: float, assumed: Assumptions) -> StepTime:
        """Of a step of a phase."""
        model, losses = self.flops(place)
        trace, heaviest = self._traces[place], self._traces[self._heaviest]
        more_flops, more_kernels = 0.0, 0
        if choice.layout.activation_checkpointing:  # the blocks' forward pass once more, in whichever phase
            more_flops = (self._again.flops - heaviest.flops) / _FOLLOWED
            more_kernels = self._again.kernels - heaviest.kernels
        images = choice.microbatches * choice.images
        return step_time(
            flops=images * (model + losses + more_flops),
            kernels=trace.kernels + more_kernels,
            microbatches=choice.microbatches,
            rate=rate,
            messages=self._messages(place),
            parallel=choice.layout.parallel,
            ring=Ring.over(gpu, processes, assumed),
            assumed=assumed,
        )

    def _messages(self, place: int) -> Messages:
        weights = self.rehearsal.weights
        judged = getattr(self.training.phases[place], "discriminator", False)
        config = self._recipe.tokenizer
        small, size = 1, 4  # whether all is finite
        if self.stage == "stage1":  # distances, ranks, counts, features
            small, size = small + 4, size + config.codebook_size * (4 + 8 + 8 + 4 * config.code_width)
        if judged:
            small += 1
        return Messages(
            blocks=weights.blocks,
            whole=weights.whole + (weights.rival if judged else 0),
            block=self.rehearsal.largest_block,
            count=self.rehearsal.blocks,
            small=small,
            small_bytes=size,
        )

    def checkpoint_bytes(self) -> int:
        """Weights and buffers, moments of all that is trained, and the average."""
        weights = self.rehearsal.weights
        average = weights.trained if self.training.loop.optimizer.ema_decay else 0
        return weights.kept + 2 * (weights.trained + weights.rival) + average
