"""What a run on many GPUs will take: operations (`recipes.flops`), memory (`step_trace`), data, hours, and scaling."""

from __future__ import annotations

from dataclasses import dataclass

from alitok.apps.plan.hardware import Gpu, HalfOrFull
from alitok.apps.plan.stage_cost import LAYOUTS, Choice, Footprint, StageCost
from alitok.apps.plan.traffic import Assumptions, StepTime
from alitok.core.config import config, require_at_least
from alitok.core.console import Reporter
from alitok.core.errors import AlitokError
from alitok.data.crops import VIEWS
from alitok.recipes.flops import decoder_flops, encoder_flops, sampling_flops, step_weight_bytes
from alitok.recipes.presets import IMAGENET_IMAGES, STAGES, Recipe, StageName

SCALES = tuple(2**power for power in range(11))  # GPUs: 1 to 1,024
_CODE_BYTES = 2
_CACHE_BYTES = 4  # per number, in the precision of the jobs
_HOUR = 3600.0
_BATCH = 256  # images sampled at a time on a GPU, if they fit
JOBS_PRECISION: HalfOrFull = "fp32"  # of encoding, and the default of `alitok sample`


@config
class PlanRequest:
    """What is planned for.

    Attributes:
        gpus: number of GPUs of each training.
        precision: of the trainings' forward passes.
        images: size of the training set.
        image_bytes: of an image as it is read, encoded or not, on average.
        in_memory: whether images are held uncompressed, so that no CPU core decodes them.
        decoded_per_core: images that one CPU core reads, decodes and crops per second.
        samples: images to sample for evaluation.
        memory_fraction: of a GPU's memory that a step may use; the rest is for the driver, messages and fragmentation.
    """

    gpus: int = 1
    precision: HalfOrFull = "bf16"
    images: int = IMAGENET_IMAGES
    classes: int = 1000
    image_bytes: float = 110e3
    in_memory: bool = False
    decoded_per_core: float = 200.0
    samples: int = 50_000
    memory_fraction: float = 0.9

    def __post_init__(self) -> None:
        """Reject values outside their ranges."""
        require_at_least(self, 1, "gpus", "images", "classes", "image_bytes", "decoded_per_core", "samples")
        if not 0 < self.memory_fraction <= 1:
            raise AlitokError(f"memory_fraction must be above 0 and at most 1, not {self.memory_fraction}")


@dataclass(frozen=True)
class PhaseBudget:
    """One phase: most steps, FLOPs of one image without and of the losses' networks, time of a step, hours in total."""

    name: str
    steps: int
    flops: int
    loss_flops: int
    time: StepTime
    hours: float


@dataclass(frozen=True)
class Scale:
    """The longest phase on a number of GPUs; `choice` and `time` are None if impossible, for the reason `why_not`."""

    gpus: int
    choice: Choice | None = None
    time: StepTime | None = None
    images_per_second: float = 0.0
    why_not: str | None = None


@dataclass(frozen=True)
class StageBudget:
    """One training.

    Attributes:
        trained: parameters, without the discriminator.
        footprints: one per layout, in the heaviest phase.
        choice: the fastest layout that fits into memory; None if none does.
        read_bytes: in all, images or codes.
        read_rate: bytes/s over all GPUs, in the fastest phase.
        cores: CPU cores that decode images for one GPU, in the fastest phase; 0 for codes or uncompressed images.
        checkpoint_bytes: of one of the `checkpoints` training states that stay on disk.
        scaling: the longest phase on 1 to 1,024 GPUs.
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
    checkpoints: int
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
    """Work beside training: FLOPs of one image, hours and bytes/s read over all GPUs, memory in bytes on one GPU."""

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
    jobs: tuple[JobBudget, ...] = ()

    @property
    def hours(self) -> float:
        """Of everything in sequence."""
        return sum(stage.hours for stage in self.stages) + sum(job.hours for job in self.jobs)


def make_budget(
    recipe: Recipe,
    gpu: Gpu,
    request: PlanRequest,
    assumed: Assumptions,
    stages: tuple[StageName, ...] = STAGES,
    report: Reporter = lambda what: None,
) -> Budget:
    """Plan a run, telling `report` what is traced; AlitokError if GPUs cannot share a batch or a network is missing."""
    budgets = []
    for stage in stages:
        report(f"one step of {stage}")
        cost = StageCost(recipe, stage, request.classes, request.precision == "bf16")
        budgets.append(_stage(cost, gpu, request, assumed))
    jobs = (_encoding(recipe, gpu, request, assumed), _sampling(recipe, gpu, request, assumed))
    return Budget(gpu, request, assumed, tuple(budgets), jobs)


def _stage(cost: StageCost, gpu: Gpu, request: PlanRequest, assumed: Assumptions) -> StageBudget:
    batch, gpus = cost.training.loop.batch_size, request.gpus
    if batch % gpus:
        divisors = [count for count in SCALES if batch % count == 0]
        raise AlitokError(
            f"The batch of {batch} images of {cost.stage} does not divide over {gpus} GPUs; choose e.g. "
            f"{', '.join(map(str, divisors[-4:]))}, or another {cost.stage}.loop.batch_size with --set."
        )
    room, rate = request.memory_fraction * gpu.memory, gpu.rate(request.precision)
    footprints = cost.footprints(batch // gpus, gpus, room)
    choice = cost.choose(gpus, gpu, room, rate, assumed)
    unlimited = Choice(LAYOUTS[0], 1, batch // gpus)  # if memory were
    phases = []
    for index, phase in enumerate(cost.training.phases):
        time = cost.time(index, choice or unlimited, gpus, gpu, rate, assumed)
        model, losses = cost.flops(index)
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
    flops, views = encoder_flops(recipe.tokenizer), VIEWS[recipe.crops]
    seconds = request.images * views * flops / (gpu.rate(JOBS_PRECISION) * assumed.mfu * request.gpus)
    codes = request.images * views * recipe.tokenizer.sequence_length * _CODE_BYTES
    return JobBudget("encode", flops, seconds / _HOUR, codes, request.images * request.image_bytes / seconds, 0)


def _sampling(recipe: Recipe, gpu: Gpu, request: PlanRequest, assumed: Assumptions) -> JobBudget:
    """Guided samples: a step takes as long as reading the weights and the filled cache, or as its arithmetic."""
    config = recipe.generator_size.config(recipe.tokenizer, request.classes)
    each = 2 * 2 * config.layers * config.width * config.sequence_length * _CACHE_BYTES  # two rows, keys and values
    weights = step_weight_bytes(config, JOBS_PRECISION, 2 * _BATCH)
    room = max(1, int(request.memory_fraction * gpu.memory - weights) // each)
    batch = min(_BATCH, room, -(-request.samples // request.gpus))
    weights = step_weight_bytes(config, JOBS_PRECISION, 2 * batch)
    read = config.sequence_length * (weights + batch * each // 2) / (gpu.bandwidth * assumed.bandwidth_fraction)
    rate = gpu.rate(JOBS_PRECISION) * assumed.mfu
    flops = 2 * sampling_flops(config)
    decoder = recipe.tokenizer.stage2
    assert decoder is not None, "a recipe trains both stages"
    pixels = decoder_flops(recipe.tokenizer, decoder)
    seconds = max(read, batch * flops / rate) + batch * pixels / rate
    batches = -(-request.samples // (batch * request.gpus))
    written = request.samples * 3 * recipe.tokenizer.image_size**2
    memory = weights + batch * each
    return JobBudget("sample", flops + pixels, batches * seconds / _HOUR, written, 0.0, memory)
