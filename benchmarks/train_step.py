"""The cost of a training step: images per second, FLOPs, their fraction of the machine's peak, and peak memory.

Each case runs in its own process (two for `ddp` and `fsdp`) and takes real optimizer steps on noise, with the code of
`alitok train`. Cases alternate over rounds and medians count, so that ratios to the plain case of the same training
come from one run. Prints one line per case, and one JSON object on the last line.

    python benchmarks/train_step.py                                       # the small recipes, as on a laptop
    python benchmarks/train_step.py --preset alitok-256 --batch-size 1 --options plain --rounds 1 --steps 1 --warmup 1
    python benchmarks/train_step.py --preset alitok-256 --generator L --batch-size 32 --precision bf16   # on a GPU
    python benchmarks/train_step.py --cases stage1.plain stage1.fsdp          # these alone

FLOPs are the model's, by formula and (for plain cases) by PyTorch's counter: three times the forward pass for trained
parts, once for frozen ones; feature networks, the discriminator and recomputed activations are not counted. The peak
is the GPU's data-sheet rate without sparsity; on a CPU, the rate of a large float32 matrix product, measured by the
case itself.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from alitok.core.distributed import World
    from alitok.recipes.presets import Recipe
    from alitok.run.tasks import Training, Trainings

STAGES = ("stage1", "stage2", "generator")
OPTIONS = (
    "plain",
    "bf16",
    "compile",
    "activation_checkpointing",
    "accumulate",
    "local",
    "discriminator",
    "ddp",
    "fsdp",
)
ONLY_TOKENIZER = ("local", "discriminator")
CASES = [
    f"{stage}.{option}"
    for stage in STAGES
    for option in OPTIONS
    if stage != "generator" or option not in ONLY_TOKENIZER
]
PROCESSES = {"ddp": 2, "fsdp": 2}
# Dense peaks of data sheets, in FLOP/s, by a part of the device's name.
PEAKS = {
    "bf16": {"H200": 989e12, "H100": 989e12, "A800": 312e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12},
    "fp32": {"H200": 67e12, "H100": 67e12, "A800": 19.5e12, "A100": 19.5e12, "L40S": 91.6e12, "4090": 82.6e12},
}


def recipe_for(options: argparse.Namespace, option: str) -> Recipe:
    """The preset, with one option changed."""
    from alitok.recipes.presets import RECIPES, with_generator
    from alitok.train.task import EngineConfig

    recipe = RECIPES[options.preset]
    if options.generator:
        recipe = with_generator(recipe, options.generator)
    engine = EngineConfig(precision="bf16" if option == "bf16" else options.precision)
    changes = {
        "compile": {"compile": True},
        "activation_checkpointing": {"activation_checkpointing": True},
        "accumulate": {"accumulate": 2},
        "fsdp": {"parallel": "fsdp"},
    }
    engine = dataclasses.replace(engine, **changes.get(option, {}))

    def fitted(training: Any) -> Any:
        batch = options.batch_size or training.loop.batch_size
        loop = dataclasses.replace(training.loop, batch_size=batch)
        phase = training.phases[0]
        if hasattr(phase, "losses"):
            losses = phase.losses.with_perceptual("none")
            if option == "local":
                losses = dataclasses.replace(losses, local=1.0)
            if option == "discriminator":
                losses = dataclasses.replace(losses, adversarial=0.1)
            phase = dataclasses.replace(phase, losses=losses, discriminator=option == "discriminator")
        return dataclasses.replace(training, loop=loop, phases=(phase,))

    return dataclasses.replace(
        recipe,
        stage1=fitted(recipe.stage1),
        stage2=fitted(recipe.stage2),
        generator=fitted(recipe.generator),
        engine=engine,
    )


def training_of(trainings: Trainings, stage: str) -> Training:
    """The training of a stage, on noise."""
    from alitok.run.estimate import generator_on_noise

    return generator_on_noise(trainings) if stage == "generator" else trainings.stage(stage, rehearsal=True)


def step_flops_of(recipe: Recipe, stage: str, model: Any) -> int:
    """Of one image in a training step, by formula."""
    from alitok.recipes.flops import generator_step_flops, tokenizer_step_flops

    return generator_step_flops(model.config) if stage == "generator" else tokenizer_step_flops(recipe.tokenizer, stage)


def counted_flops(training: Training, batch: tuple[torch.Tensor, ...], device: torch.device) -> int:
    """Of one image in a training step, by torch's counter."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from alitok.train.task import StepInfo

    task, counter = training.task, FlopCounterMode(display=False)
    one = tuple(part[:1].to(device) for part in batch)
    with sdpa_kernel(SDPBackend.MATH), counter:  # there attention is two plain products, which the counter knows
        for terms in task.losses(task.modules, one, StepInfo(0, 0, 0)):
            terms.minimise.backward()
    return counter.get_total_flops()


def peak_rate(device: torch.device, half: bool) -> tuple[float, str]:
    """FLOP/s that this device can do at most, and how that is known; 0 if it is not."""
    import torch

    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        kind = "bf16" if half else "fp32"
        return next((rate for part, rate in PEAKS[kind].items() if part in name), 0.0), f"data sheet, {kind}"
    side, times = 1536, []
    first, second = torch.rand(side, side), torch.rand(side, side)
    for _ in range(7):
        began = time.perf_counter()
        first @ second
        times.append(time.perf_counter() - began)
    return 2 * side**3 / min(times), f"measured, {side} x {side} in fp32"


def run(options: argparse.Namespace, case: str, world: World) -> dict[str, Any]:
    """Measure one case in this process."""
    import torch

    from alitok.core.device import computes_in_half
    from alitok.run.estimate import noise_splits
    from alitok.run.tasks import Trainings
    from alitok.train.state import TrainingState

    stage, option = case.split(".")
    recipe = recipe_for(options, option)
    classes = tuple(str(number) for number in range(options.classes))
    with tempfile.TemporaryDirectory() as nowhere:
        trainings = Trainings(recipe, noise_splits(classes, recipe), world, Path(nowhere), 0)
        training = training_of(trainings, stage)
        state = TrainingState(training.task, training.loop, recipe.engine, Path(nowhere), world)
        batches, times = training.task.batches(0), []
        for step in range(options.warmup + options.steps):
            batch = next(batches)
            _wait(world.device)
            began = time.perf_counter()
            state.advance(batch, lambda: False)
            _wait(world.device)
            if step >= options.warmup:
                times.append(time.perf_counter() - began)
    peak_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if world.device.type == "cuda":
        peak_memory = torch.cuda.max_memory_allocated(world.device)
    step_flops = step_flops_of(recipe, stage, training.model)
    rate, how = peak_rate(world.device, computes_in_half(world.device, recipe.engine.precision))
    seconds, images = statistics.median(times), training.loop.batch_size
    found = {
        "case": case,
        "batch_size": images,
        "processes": world.size,
        "precision": "bf16" if computes_in_half(world.device, recipe.engine.precision) else "fp32",
        "seconds": seconds,
        "images_per_second": images / seconds,
        "gflops_per_image": step_flops / 1e9,
        "tflops_per_second": images * step_flops / seconds / 1e12,
        "peak_tflops_per_second": rate / 1e12,
        "peak": how,
        "mfu": images * step_flops / seconds / rate / world.size if rate else None,
        "peak_memory_gb": peak_memory / 1e9,
        "device": torch.cuda.get_device_name() if world.device.type == "cuda" else platform.machine(),
    }
    if stage == "generator":
        found["tokens_per_second"] = found["images_per_second"] * training.model.config.sequence_length
    if option == "plain":
        found["gflops_per_image_counted"] = counted_flops(training, batch, world.device) / 1e9
    return found


def _wait(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def start(options: argparse.Namespace, case: str) -> dict[str, Any] | None:
    """Run one case in processes of its own; None, with a word on why, if it fails."""
    processes = PROCESSES.get(case.split(".")[1], 1)
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, *launcher, __file__, *sys.argv[1:], "--one", case, "--result", str(result)]
        threads = max(1, (os.cpu_count() or 1) // processes)
        environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            print(f"{case} failed:\n{done.stderr[-2000:]}")
            return None
        return json.loads(result.read_text())


def main() -> None:
    """Measure the requested cases, alternating."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="photos", help="a recipe by name")
    parser.add_argument("--generator", choices=["B", "L", "XL"], help="a published size in place of the recipe's")
    parser.add_argument("--batch-size", type=int, default=0, help="0: the recipe's")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="of all cases but bf16")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--options", nargs="+", default=OPTIONS, choices=OPTIONS)
    parser.add_argument("--cases", nargs="+", choices=CASES, metavar="STAGE.OPTION", help="these, of all stages")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        from alitok.core.distributed import join

        with join() as world:
            found = run(options, options.one, world)
            if world.main:
                options.result.write_text(json.dumps(found))
        return
    product = {f"{stage}.{option}" for stage in options.stages for option in options.options}
    cases = options.cases or [case for case in CASES if case in product]
    rounds: dict[str, list[dict[str, Any]]] = {case: [] for case in cases}
    for turn in range(options.rounds):
        for case, results in rounds.items():
            if turn and not results:
                continue  # it failed before
            found = start(options, case)
            if found is not None:
                results.append(found)
    results = [_median(found) for found in rounds.values() if found]
    by_case = {result["case"]: result for result in results}
    for result in results:
        plain = by_case.get(f"{result['case'].split('.')[0]}.plain")
        result["speed_over_plain"] = plain["seconds"] / result["seconds"] if plain else None
        mfu = "" if result["mfu"] is None else f"{result['mfu']:6.1%} of peak"
        print(
            f"{result['case']:22} {result['images_per_second']:9.1f} images/s {mfu} {result['peak_memory_gb']:7.2f} GB"
            f"  x {result['speed_over_plain'] or 0:.2f}"
        )
    print(json.dumps({"benchmark": "train_step", "machine": machine(), "preset": options.preset, "cases": results}))


def _median(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The round of median time."""
    return sorted(found, key=lambda result: result["seconds"])[len(found) // 2]


def machine() -> dict[str, Any]:
    """Where this was measured."""
    import torch

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "commit": commit.stdout.strip(),
    }


if __name__ == "__main__":
    main()
