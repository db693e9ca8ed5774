"""Generation time by model, batch, precision and length, beside the machine's limits; errors of each precision.

Each case runs in its own process. Cases alternate over rounds and medians count, so that ratios come from one run.
Where a batch does not fit, the largest that does is printed. Prints one line per case, then tables, and one JSON
object on the last line.

    python benchmarks/generation.py --quick                                   # B on a CPU: some of each part
    python benchmarks/generation.py --parts matrix                            # B, L, XL; 1, 8, 64, 256; fp32, bf16
    python benchmarks/generation.py --parts growth batches --plot growth.svg  # against codes, and against the batch
    python benchmarks/generation.py --parts exactness --model runs/demo/model # of bf16 and int8
    python benchmarks/generation.py --draw results.json --plot growth.svg     # tables and plot of an earlier run

On a GPU machine without the project installed, beside the slow sampler, in less than nine minutes:

    PYTHONPATH=src python benchmarks/generation.py --parts matrix exactness --presets L --batches 64 \
        --precisions bf16 fp32 --rounds 1 --repeats 3 --oracle

Parts: `matrix` samples with guidance for each model, batch and precision. `growth` samples single images with the
first model's generator and decoder on 4 x 4, 8 x 8, 16 x 16 and 32 x 32 grids without a prefix, exactly 16, 64, 256
and 1024 codes. `batches` varies the batch of the first model. `soft` alternates plain guidance and SoftCFG for the
codes of one image. `exactness` feeds the same codes to each precision and compares logits and most likely codes with
the plain float32 forward pass: with random weights, whose most likely codes are nearly tied, and with saved models.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from generation_tables import PRECISIONS, plot, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from alitok.sampling import SampleRequest, SamplingConfig
    from alitok.sampling.engine import Engine
    from alitok.sampling.pipeline import Pipeline

PARTS = ("matrix", "growth", "batches", "soft", "exactness")
FULL = {
    "presets": ["B", "L", "XL"],
    "batches": [1, 8, 64, 256],
    "precisions": ["fp32", "bf16"],
    "grids": [4, 8, 16, 32],
    "growing_batches": [1, 2, 4, 8, 16, 32, 64],
}
QUICK = {
    "presets": ["B"],
    "batches": [1],
    "precisions": ["fp32", "int8"],
    "grids": [4, 8, 16],
    "growing_batches": [1, 4, 16],
}
MIB = 1 << 20
_TURNS = 3


@dataclasses.dataclass(frozen=True)
class Case:
    """What one process measures.

    Attributes:
        part: one of `PARTS`.
        preset: the name of a model with random weights, or a saved one in `exactness`.
        precision: of the engine; `exactness` measures all there are.
        batch: images per batch.
        grid: grid size in `growth`.
        oracle: whether the slow sampler is timed as well.
    """

    part: str
    preset: str
    precision: str = ""
    batch: int = 1
    grid: int = 0
    oracle: bool = False

    @property
    def name(self) -> str:
        """For people, and to tell cases apart."""
        what = {"growth": f"grid {self.grid}", "exactness": ""}.get(self.part, f"batch {self.batch}")
        return " ".join(filter(None, (self.part, self.preset, self.precision, what)))


def cases_of(options: argparse.Namespace) -> list[Case]:
    """All that is to be measured."""
    first, precisions = options.presets[0], options.precisions
    found = {
        "matrix": [
            Case("matrix", preset, precision, batch, oracle=options.oracle)
            for preset in options.presets
            for precision in precisions
            for batch in options.batches
        ],
        "growth": [Case("growth", first, precision, grid=grid) for precision in precisions for grid in options.grids],
        "batches": [
            Case("batches", first, precision, batch) for precision in precisions for batch in options.growing_batches
        ],
        "soft": [Case("soft", first, precision) for precision in precisions],
        "exactness": [Case("exactness", name) for name in (first, *options.model)],
    }
    return [case for part in options.parts for case in found[part]]


def run(options: argparse.Namespace, case: Case) -> dict[str, Any]:
    """Measure one case in this process."""
    from alitok.apps.bench.bench import bench, full_name, named_configs, random_pipeline
    from alitok.apps.bench.options import BenchOptions
    from alitok.sampling.pipeline import Pipeline

    precision: Any = case.precision or "fp32"
    if case.part == "exactness" and case.preset in options.model:
        return exactness(Pipeline.from_pretrained(case.preset), options.images)
    tokenizer, generator, sampling = named_configs(full_name(case.preset))
    if case.part == "growth":
        tokenizer = dataclasses.replace(tokenizer, image_size=case.grid * tokenizer.patch_size, prefix=0)
        generator = dataclasses.replace(generator, grid=case.grid, prefix=0)
    pipeline = random_pipeline(tokenizer, generator, sampling, precision=precision)
    if case.part == "exactness":
        return exactness(pipeline, options.images)
    if case.part == "soft":
        return soft(pipeline)
    wanted = BenchOptions(
        batch_size=case.batch,
        precision=precision,
        rounds=options.repeats,
        oracle=case.oracle,
        bandwidth_bytes=options.buffer_mib * MIB if options.buffer_mib else None,
        matmul_side=options.side or None,
    )
    return bench(pipeline, wanted, full_name(case.preset)).to_json()


def soft(pipeline: Pipeline) -> dict[str, Any]:
    """Seconds of the codes of one image with plain guidance and with SoftCFG, in turns."""
    from alitok.sampling import SampleRequest

    engine, seconds = pipeline.engine, {"plain": [], "soft": []}
    ways = {
        name: dataclasses.replace(pipeline.sampling, soft_guidance=name == "soft", guidance_scale=2.0)
        for name in seconds
    }
    for turn in range(_TURNS + 1):
        for name, sampling in ways.items():
            began = time.perf_counter()
            engine.sample([SampleRequest(0, sampling=sampling)]).cpu()
            if turn:  # the first chooses kernels
                seconds[name].append(time.perf_counter() - began)
    plain, softly = (statistics.median(seconds[name]) for name in ("plain", "soft"))
    return {"dtype": pipeline.precision, "seconds": seconds, "plain": plain, "soft": softly, "ratio": softly / plain}


def exactness(pipeline: Pipeline, images: int) -> dict[str, Any]:
    """Logits and likeliest codes of each precision against those of the plain forward pass, behind the same codes."""
    import torch

    from alitok.core.errors import AlitokError
    from alitok.sampling import SampleRequest
    from alitok.sampling.engine import Engine

    generator, sampling = pipeline.generator, pipeline.sampling
    classes = generator.config.classes
    drawn = Engine(generator).sample([SampleRequest(i % classes, 0, i, sampling) for i in range(images)])
    likeliest = dataclasses.replace(sampling, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, soft_guidance=False)
    given = [
        SampleRequest(row % classes, sampling=likeliest, given=tuple(codes)) for row, codes in enumerate(drawn.tolist())
    ]
    logits, guided = plain_pass(pipeline, drawn, likeliest)
    found: dict[str, Any] = {}
    for precision in PRECISIONS:
        try:
            read, chosen = steps_of(Engine(generator, precision, graphs=False), given)
        except AlitokError:
            continue  # there is no such kernel here
        error = read - logits
        found[precision] = {
            "logit_error": (error.square().mean().sqrt() / logits.std(-1).mean()).item(),
            "largest_logit_error": (error.abs().max() / logits.std(-1).mean()).item(),
            "same_codes": (read.argmax(-1) == logits.argmax(-1)).double().mean().item(),
            "same_guided_codes": (chosen == guided).double().mean().item(),
        }
    return {"images": images, "codes": drawn.shape[1], "precisions": found, "torch": torch.__version__}


def plain_pass(pipeline: Pipeline, codes: torch.Tensor, sampling: SamplingConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, T, V) with the class, and the likeliest codes (B, T) after guidance, all positions at once."""
    import torch

    from alitok.sampling import SampleRequest
    from alitok.sampling.guidance import RowSettings, next_codes

    generator, count = pipeline.generator, len(codes)
    with torch.inference_mode():
        classes = torch.arange(count, device=codes.device) % generator.config.classes
        known = generator(codes[:, :-1], classes)
        free = generator(codes[:, :-1], torch.full_like(classes, generator.null_class)) if sampling.guided else None
        requests = [SampleRequest(0, sampling=sampling)] * count
        rows = RowSettings.of(requests, codes.shape[1], generator.config.codebook_size, codes.device)
        guided = [
            next_codes(known[:, at], None if free is None else free[:, at], rows.scales[:, at, None], None, rows)
            for at in range(codes.shape[1])
        ]
    return known.cpu(), torch.stack(guided, dim=1).cpu()


def steps_of(engine: Engine, given: Sequence[SampleRequest]) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of an engine that reads the given codes one by one, as it reads those it draws."""
    import torch

    from alitok.sampling import SampleRequest
    from alitok.sampling import engine as engines

    choose, logits, chosen = engines.next_codes, [], []

    def watch(conditional: torch.Tensor, *others: Any) -> torch.Tensor:
        codes = choose(conditional, *others)
        logits.append(conditional[:-1].cpu().clone())
        chosen.append(codes[:-1].cpu())
        return codes

    # The codes that all images of a batch are given would be read at once; one that is given none prevents it.
    with patch.object(engines, "next_codes", watch):
        engine.sample([*given, SampleRequest(0, sampling=given[0].sampling)])
    return torch.stack(logits, dim=1), torch.stack(chosen, dim=1)


def start(case: Case) -> dict[str, Any] | None:
    """Run one case in a process of its own; None, with a word on why, if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        one = json.dumps(dataclasses.asdict(case))
        command = [sys.executable, __file__, *sys.argv[1:], "--one", one, "--result", str(result)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(f"{case.name} failed:\n{done.stderr[-2000:]}", flush=True)
            return None
        return json.loads(result.read_text())


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All cases, in turns."""
    rounds: dict[Case, list[dict[str, Any]]] = {case: [] for case in cases_of(options)}
    for turn in range(options.rounds):
        for case, found in rounds.items():
            again = case.part not in ("soft", "exactness") and found and "refused" not in found[0]
            if turn and not again:
                continue
            result = start(dataclasses.replace(case, oracle=case.oracle and not turn))
            if result is not None:
                found.append(result)
                print(f"{case.name}: {_line(result)}", flush=True)
    cases = [
        {"case": case.name, **dataclasses.asdict(case), **_merged(found)} for case, found in rounds.items() if found
    ]
    return {"benchmark": "generation", "machine": machine(), "cases": cases}


def _line(result: dict[str, Any]) -> str:
    if "refused" in result:
        return result["refused"]
    if "ratio" in result:
        return f"{result['ratio']:.3f} times plain guidance"
    if "precisions" in result:
        return ", ".join(f"{name} {found['same_codes']:.2%} same codes" for name, found in result["precisions"].items())
    return f"{result['seconds_per_image']:.3f} s per image, {result['roofline_fraction']:.0%} of the limit"


def _merged(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The round of median time, with the times of all; the slow sampler is timed in the first alone."""
    if "seconds_per_image" not in found[0]:
        return found[0]
    middle = sorted(found, key=lambda result: result["seconds_per_image"])[len(found) // 2]
    merged = {**middle, "seconds_per_image_each": [result["seconds_per_image"] for result in found]}
    slow = found[0]["oracle_seconds_per_image"]
    if slow is not None:
        speed = slow * middle["batch"] / middle["codes_seconds"]
        merged |= {"oracle_seconds_per_image": slow, "speed_over_oracle": speed}
    return merged


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


def merged(paths: list[Path]) -> dict[str, Any]:
    """The cases of several runs as one; the machine is that of the first."""
    found = [json.loads(path.read_text().splitlines()[-1]) for path in paths]
    return {**found[0], "cases": [case for results in found for case in results["cases"]]}


def arguments() -> argparse.Namespace:
    """What is wanted; what is not given is as in `FULL` or, with --quick, `QUICK`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cases, as for a CPU")
    parser.add_argument("--presets", nargs="+", help="names of `alitok models`, or B, L, XL")
    parser.add_argument("--batches", nargs="+", type=int, help="of the matrix")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS)
    parser.add_argument("--grids", nargs="+", type=int, help="grid sizes of the part growth")
    parser.add_argument("--growing-batches", nargs="+", type=int, help="of the part batches")
    parser.add_argument("--model", nargs="+", default=[], help="saved pairs for the part exactness")
    parser.add_argument("--images", type=int, default=4, help="of the part exactness")
    parser.add_argument("--oracle", action="store_true", help="the matrix beside the slow sampler, once for each case")
    parser.add_argument("--rounds", type=int, default=3, help="turns of all cases")
    parser.add_argument("--repeats", type=int, default=1, help="batches that a case draws in each turn")
    parser.add_argument("--buffer-mib", type=int, default=0, help="for bandwidth; 0: far more than caches hold")
    parser.add_argument("--side", type=int, default=0, help="of the matrices for their rate; 0: by the device")
    parser.add_argument("--plot", type=Path, help="draw the parts growth and batches to this file")
    parser.add_argument("--draw", nargs="+", type=Path, help="measure nothing: results are on these files' last lines")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name, value in (QUICK if options.quick else FULL).items():
        setattr(options, name, getattr(options, name) or value)
    return options


def main() -> None:
    """Measure the requested cases, alternating."""
    options = arguments()
    if options.one:
        from alitok.core.errors import AlitokError

        try:
            found = run(options, Case(**json.loads(options.one)))
        except AlitokError as error:
            found = {"refused": str(error)}
        options.result.write_text(json.dumps(found))
        return
    results = merged(options.draw) if options.draw else measure(options)
    for part in PARTS:
        if any(case["part"] == part for case in results["cases"]):
            print(f"\n{part}\n\n{table(part, results['cases'])}")
    if options.plot:
        plot(results["cases"], options.plot)
    print(f"\n{json.dumps(results)}")


if __name__ == "__main__":
    main()
