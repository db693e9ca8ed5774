"""What a training on many GPUs will take: operations, memory, data, hours, and how far it scales.

Enters: a recipe, how many GPUs of which kind, and what the images are like. Leaves: a `Budget`. Operations are those
of `flops`, memory is that of `step_trace`; hours follow from the share of the rate that is assumed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from alitok.apps.plan.footprint import Footprint
from alitok.apps.plan.hardware import Gpu, HalfOrFull
from alitok.apps.plan.stage_cost import Choice, StageCost
from alitok.apps.plan.traffic import Assumptions, StepTime
from alitok.core.config import config, require_at_least
from alitok.core.errors import AlitokError
from alitok.data.crops import VIEWS
from alitok.recipes.flops import decoder_flops, drawing_flops, encoder_flops, step_weight_bytes
from alitok.recipes.presets import IMAGENET_IMAGES, STAGES, Recipe, StageName

SCALES = tuple(2**power for power in range(11))  # GPUs: 1 to 1,024
_CODE_BYTES = 2
_WIDTH = 4  # bytes of a number in the cache, in the precision of the jobs
_HOUR = 3600.0
_DRAWN = 256  # images at a time on a GPU, where there is room
JOBS_PRECISION: HalfOrFull = "fp32"  # codes are made in no other, and `alitok sample` draws in it unless told otherwise


@config
class PlanRequest:
    """What is planned for.

    Attributes:
        gpus: how many share each training.
        precision: of the trainings' forward passes.
        images: of the training set.
        classes: of the images.
        image_bytes: of an image as it is read, encoded on disk or not, on average.
        in_memory: whether images are there uncompressed, so that no core decodes them.
        decoded_per_core: images that one core reads, decodes and cuts in a second.
        samples: images that are drawn to be measured.
        memory_share: of a GPU's memory that a step may fill; the rest is for the driver, messages and gaps.
    """

    gpus: int = 1
    precision: HalfOrFull = "bf16"
    images: int = IMAGENET_IMAGES
    classes: int = 1000
    image_bytes: float = 110e3
    in_memory: bool = False
    decoded_per_core: float = 200.0
    samples: int = 50_000
    memory_share: float = 0.9

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        require_at_least(self, 1, "gpus", "images", "classes", "image_bytes", "decoded_per_core", "samples")
        if not 0 < self.memory_share <= 1:
            raise AlitokError(f"memory_share must be above 0 and at most 1, not {self.memory_share}")


@dataclass(frozen=True)
class PhaseBudget:
    """One phase of a training.

    Attributes:
        name: of the phase.
        steps: at most.
        flops: of one image, by the formulas that utilisation is stated in.
        loss_flops: of its feature networks and its discriminator.
        time: of a step.
        hours: of all of them.
    """

    name: str
    steps: int
    flops: int
    loss_flops: int
    time: StepTime
    hours: float


@dataclass(frozen=True)
class Scale:
    """The longest phase over so many GPUs; `choice` and `time` are None where `why_not` says why it cannot be."""

    gpus: int
    choice: Choice | None = None
    time: StepTime | None = None
    images_per_second: float = 0.0
    why_not: str | None = None


@dataclass(frozen=True)
class StageBudget:
    """One training.

    Attributes:
        name: of the stage.
        trained: parameters that are trained, the discriminator's left out.
        batch_size: images of a step.
        phases: in order.
        footprints: one for each way of laying it over the GPUs, in its heaviest phase.
        choice: the fastest way that fits into the memory; None if none does.
        read_bytes: that are read in all, images or codes.
        read_rate: bytes/s over all GPUs, in the fastest phase.
        cores: that decode images for one GPU, in the fastest phase; 0 where codes or uncompressed images are read.
        checkpoint_bytes: of one training state.
        kept: states that stay on disk.
        scaling: the longest phase over 1 to 1,024 GPUs.
    """

    name: StageName
    trained: int
    batch_size: int
    phases: tuple[PhaseBudget, ...]
    footprints: tuple[Footprint, ...]
    choice: Choice | None
    read_bytes: float
    read_rate: float
    cores: float
    checkpoint_bytes: int
    kept: int
    scaling: tuple[Scale, ...]

    @property
    def hours(self) -> float:
        """Of the whole training."""
        return sum(phase.hours for phase in self.phases)

    @property
    def ends(self) -> Scale | None:
        """The last number of GPUs at which more than half of each step is arithmetic at the assumed rate."""
        good = [scale for scale in self.scaling if scale.time is not None and scale.time.efficiency > 0.5]
        return good[-1] if good else None


@dataclass(frozen=True)
class JobBudget:
    """Work that is no training.

    Attributes:
        name: of the job.
        flops: of one image.
        hours: over all GPUs.
        written_bytes: that it leaves.
        read_rate: bytes/s over all GPUs.
        memory: bytes of one GPU: weights, cache and what is in work.
        precision: in which it is done, whatever that of the trainings is.
    """

    name: str
    flops: int
    hours: float
    written_bytes: float
    read_rate: float
    memory: int
    precision: HalfOrFull = JOBS_PRECISION


@dataclass(frozen=True)
class Budget:
    """The whole plan."""

    gpu: Gpu
    request: PlanRequest
    assumed: Assumptions
    stages: tuple[StageBudget, ...]
    jobs: tuple[JobBudget, ...] = field(default=())

    @property
    def hours(self) -> float:
        """One thing after the other."""
        return sum(stage.hours for stage in self.stages) + sum(job.hours for job in self.jobs)


def make_budget(
    recipe: Recipe,
    gpu: Gpu,
    request: PlanRequest,
    assumed: Assumptions,
    stages: tuple[StageName, ...] = STAGES,
    say: Callable[[str], None] = lambda what: None,
) -> Budget:
    """Plan a run.

    Args:
        recipe: what is trained.
        gpu: on which.
        request: how many, and the images.
        assumed: what is not known.
        stages: those that are planned.
        say: told what is being looked at.

    Raises:
        AlitokError: a batch does not divide over the GPUs, or a feature network cannot be built.
    """
    budgets = []
    for stage in stages:
        say(f"one step of {stage}, without computing it")
        budgets.append(
            _stage(StageCost(recipe, stage, request.classes, request.precision == "bf16"), gpu, request, assumed)
        )
    jobs = (_encoding(recipe, gpu, request, assumed), _sampling(recipe, gpu, request, assumed))
    return Budget(gpu, request, assumed, tuple(budgets), jobs)


def _stage(cost: StageCost, gpu: Gpu, request: PlanRequest, assumed: Assumptions) -> StageBudget:
    batch, gpus = cost.training.loop.batch_size, request.gpus
    if batch % gpus:
        divisors = [count for count in SCALES if batch % count == 0]
        raise AlitokError(
            f"The batch of {batch} images of {cost.stage} does not divide over {gpus} GPUs; choose such as "
            f"{', '.join(map(str, divisors[-4:]))}, or another {cost.stage}.loop.batch_size with --set."
        )
    room, rate = request.memory_share * gpu.memory, gpu.rate(request.precision)
    footprints = cost.footprints(batch // gpus, gpus, room)
    choice = cost.choose(gpus, gpu, room, rate, assumed)
    phases = []
    for place, phase in enumerate(cost.training.phases):
        time = cost.time(place, choice or cost.fallback(gpus), gpus, gpu, rate, assumed)
        model, losses = cost.flops(place)
        phases.append(PhaseBudget(phase.name, phase.steps, model, losses, time, phase.steps * time.seconds / _HOUR))
    images = sum(phase.steps for phase in phases) * batch
    fastest = max(batch / phase.time.seconds for phase in phases)
    codes = cost.stage == "generator"
    size = _CODE_BYTES * cost.sequence_length if codes else request.image_bytes
    return StageBudget(
        cost.stage,
        cost.rehearsal.weights.trained // 4,
        batch,
        tuple(phases),
        footprints,
        choice,
        images * size,
        fastest * size,
        0.0 if codes or request.in_memory else fastest / gpus / request.decoded_per_core,
        cost.checkpoint_bytes(),
        cost.training.loop.keep,
        tuple(_scale(cost, count, gpu, room, rate, assumed) for count in SCALES),
    )


def _scale(cost: StageCost, gpus: int, gpu: Gpu, room: float, rate: float, assumed: Assumptions) -> Scale:
    batch = cost.training.loop.batch_size
    if batch % gpus:
        return Scale(gpus, why_not=f"a batch of {batch} does not divide")
    choice = cost.choose(gpus, gpu, room, rate, assumed)
    if choice is None:
        return Scale(gpus, why_not="no layout fits into the memory")
    time = cost.time(cost.longest, choice, gpus, gpu, rate, assumed)
    return Scale(gpus, choice, time, batch / time.seconds)


def _encoding(recipe: Recipe, gpu: Gpu, request: PlanRequest, assumed: Assumptions) -> JobBudget:
    """All views of all images to codes."""
    flops, views = encoder_flops(recipe.tokenizer), VIEWS[recipe.crops]
    seconds = request.images * views * flops / (gpu.rate(JOBS_PRECISION) * assumed.mfu * request.gpus)
    codes = request.images * views * recipe.tokenizer.sequence_length * _CODE_BYTES
    return JobBudget("encode", flops, seconds / _HOUR, codes, request.images * request.image_bytes / seconds, 0)


def _sampling(recipe: Recipe, gpu: Gpu, request: PlanRequest, assumed: Assumptions) -> JobBudget:
    """Guided samples: each step reads weights and the filled half of the cache, or computes: the longer counts."""
    config = recipe.generator_size.config(recipe.tokenizer, request.classes)
    each = 2 * 2 * config.layers * config.width * config.sequence_length * _WIDTH  # two rows, keys and values
    weights = step_weight_bytes(config, JOBS_PRECISION, 2 * _DRAWN)
    room = max(1, int(request.memory_share * gpu.memory - weights) // each)
    batch = min(_DRAWN, room, -(-request.samples // request.gpus))
    weights = step_weight_bytes(config, JOBS_PRECISION, 2 * batch)
    read = config.sequence_length * (weights + batch * each // 2) / (gpu.bandwidth * assumed.bandwidth_share)
    rate = gpu.rate(JOBS_PRECISION) * assumed.mfu
    flops = 2 * drawing_flops(config)
    decoder = recipe.tokenizer.stage2
    assert decoder is not None, "a recipe trains both stages"
    pixels = decoder_flops(recipe.tokenizer, decoder)
    seconds = max(read, batch * flops / rate) + batch * pixels / rate
    batches = -(-request.samples // (batch * request.gpus))
    written = request.samples * 3 * recipe.tokenizer.image_size**2
    memory = weights + batch * each
    return JobBudget("sample", flops + pixels, batches * seconds / _HOUR, written, 0.0, memory)
