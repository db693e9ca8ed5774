"""Drawing pictures: time by model, batch, precision, and length, beside the limits of the machine; errors of precision.

Each case is a process of its own, so that its memory is given back. Cases are run in turns, round after round, and the
median counts, so that their ratios are taken within one run. A batch that does not fit is told with the largest that
does. Prints a line as each case ends, then tables, and one JSON object on the last line.

    python benchmarks/generation.py --quick                                   # B on a CPU: some of each part
    python benchmarks/generation.py --parts matrix                            # B, L, XL; 1, 8, 64, 256; fp32, bf16
    python benchmarks/generation.py --parts growth batches --plot growth.svg  # against codes, and against the batch
    python benchmarks/generation.py --parts exactness --model runs/demo/model # of bf16 and int8
    python benchmarks/generation.py --draw results.json --plot growth.svg     # tables and plot of an earlier run

On a machine with a GPU where the project is not installed, beside the slow sampler, in less than nine minutes:

    PYTHONPATH=src python benchmarks/generation.py --parts matrix exactness --presets L --batches 64 \
        --precisions bf16 fp32 --rounds 1 --repeats 3 --oracle

Parts: `matrix` draws with guidance, by each model, batch and precision. `growth` draws single pictures by the first
model's generator and decoder on grids of 4, 8, 16 and 32 cells a side without a prefix, which are exactly 16, 64, 256
and 1024 codes. `batches` draws with the first model. `exactness` reads the same codes in each precision, each behind
those that are given, and compares logits and likeliest codes with those of the plain forward pass in float32: with
random weights, whose likeliest codes are nearly tied, and with saved models.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from alitok.generator import Engine, SampleRequest, SamplingConfig
    from alitok.jobs.pipeline import Pipeline

PARTS = ("matrix", "growth", "batches", "exactness")
PRECISIONS = ("fp32", "bf16", "int8")
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


@dataclasses.dataclass(frozen=True)
class Case:
    """What one process measures.

    Attributes:
        part: one of `PARTS`.
        preset: the name of a model with random weights, or a saved one in `exactness`.
        precision: of the engine; `exactness` measures all there are.
        batch: pictures drawn at a time.
        grid: cells a side in `growth`.
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
        "exactness": [Case("exactness", name) for name in (first, *options.model)],
    }
    return [case for part in options.parts for case in found[part]]


def run(options: argparse.Namespace, case: Case) -> dict[str, Any]:
    """Measure one case in this process."""
    from alitok.jobs.pipeline import Pipeline
    from alitok.workflow.bench import BenchOptions, bench, full_name, named_configs, random_pipeline

    precision: Any = case.precision or "fp32"
    if case.part == "exactness" and case.preset in options.model:
        return exactness(Pipeline.from_pretrained(case.preset), options.pictures)
    tokenizer, generator, sampling = named_configs(full_name(case.preset))
    if case.part == "growth":
        tokenizer = dataclasses.replace(tokenizer, image_size=case.grid * tokenizer.patch_size, prefix=0)
        generator = dataclasses.replace(generator, grid=case.grid, prefix=0)
    pipeline = random_pipeline(tokenizer, generator, sampling, precision=precision)
    if case.part == "exactness":
        return exactness(pipeline, options.pictures)
    wanted = BenchOptions(
        batch_size=case.batch,
        precision=precision,
        rounds=options.repeats,
        oracle=case.oracle,
        bandwidth_bytes=options.buffer_mib * MIB if options.buffer_mib else None,
        matmul_side=options.side or None,
    )
    return bench(pipeline, wanted, full_name(case.preset)).to_json()


def exactness(pipeline: Pipeline, pictures: int) -> dict[str, Any]:
    """Logits and likeliest codes of each precision against those of the plain forward pass, behind the same codes."""
    import torch

    from alitok.core.errors import AlitokError
    from alitok.generator import Engine, SampleRequest

    generator, sampling = pipeline.generator, pipeline.sampling
    classes = generator.config.classes
    drawn = Engine(generator).sample([SampleRequest(i % classes, 0, i, sampling) for i in range(pictures)])
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
    return {"pictures": pictures, "codes": drawn.shape[1], "precisions": found, "torch": torch.__version__}


def plain_pass(pipeline: Pipeline, codes: torch.Tensor, sampling: SamplingConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, T, V) with the class, and the likeliest codes (B, T) after guidance, all positions at once."""
    import torch

    from alitok.generator import SampleRequest
    from alitok.generator.sampling import RowSettings, next_codes

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

    from alitok.generator import SampleRequest, session

    choose, logits, chosen = session.next_codes, [], []

    def watch(conditional: torch.Tensor, *others: Any) -> torch.Tensor:
        codes = choose(conditional, *others)
        logits.append(conditional[:-1].cpu().clone())
        chosen.append(codes[:-1].cpu())
        return codes

    # The codes that all pictures of a batch are given would be read at once; one that is given none prevents it.
    with patch.object(session, "next_codes", watch):
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
            again = case.part != "exactness" and found and "refused" not in found[0]
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
    if "precisions" in result:
        return ", ".join(f"{name} {found['same_codes']:.2%} same codes" for name, found in result["precisions"].items())
    return f"{result['seconds_per_image']:.3f} s per picture, {result['share_of_roofline']:.0%} of the limit"


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


_TIMES = ("batch", "weights", "s per picture", "ms per step", "limit", "of bandwidth", "of roofline", "GB")
COLUMNS = {
    "matrix": ("model", *_TIMES, "x slow sampler"),
    "growth": ("codes", "weights", "codes, s", "pixels, s", "ms per step", "limit", "of roofline"),
    "batches": _TIMES,
    "exactness": ("model", "weights", "logit error", "largest", "same codes", "same after guidance"),
}


def table(part: str, cases: list[dict[str, Any]]) -> str:
    """The cases of a part as a table in Markdown."""
    heads = COLUMNS[part]
    rows = [row for case in cases if case["part"] == part for row in _rows(case)]
    lines = [" | ".join(row) for row in (heads, ["---:"] * len(heads), *rows)]
    return "\n".join(f"| {line} |" for line in lines)


def _rows(case: dict[str, Any]) -> list[list[str]]:
    if "refused" in case:
        which = {"matrix": [case["preset"], str(case["batch"])], "growth": [str(case["grid"] ** 2)]}
        row = [*which.get(case["part"], [str(case["batch"])]), case["precision"], case["refused"]]
        return [[*row, *[""] * (len(COLUMNS[case["part"]]) - len(row))]]
    if case["part"] == "exactness":
        name = Path(case["preset"]).name if os.sep in case["preset"] else case["preset"]
        shares = ("logit_error", "largest_logit_error", "same_codes", "same_guided_codes")
        return [
            [name, kind, *(f"{found[share]:.3%}" for share in shares)] for kind, found in case["precisions"].items()
        ]
    step = [f"{case['ms_per_step']:.2f}", f"{case['limit_ms_per_step']:.2f}"]
    bandwidth, roofline = f"{case['share_of_bandwidth']:.0%}", f"{case['share_of_roofline']:.0%}"
    memory, speed = f"{case['peak_memory_bytes'] / 1e9:.1f}", case["speed_over_oracle"]
    if case["part"] == "growth":
        parts = [f"{case['codes_seconds']:.3f}", f"{case['decode_seconds']:.3f}"]
        return [[str(case["codes"]), case["dtype"], *parts, *step, roofline]]
    row = [str(case["batch"]), case["dtype"], f"{case['seconds_per_image']:.3f}", *step, bandwidth, roofline, memory]
    return [[case["preset"], *row, "" if speed is None else f"{speed:.0f}"] if case["part"] == "matrix" else row]


def plot(cases: list[dict[str, Any]], path: Path) -> None:
    """Time per picture against the number of codes, and against the batch."""
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = "alitok"  # the same numbers give the same file
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter, LogLocator

    timed = [case for case in cases if "seconds_per_image" in case]
    figure = Figure(figsize=(9.2, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, part, x, label in zip(
        panels,
        ("growth", "batches"),
        ("codes", "batch"),
        ("codes of a picture", "pictures drawn at a time"),
        strict=True,
    ):
        for precision in PRECISIONS:
            points = [case for case in timed if case["part"] == part and case["dtype"] == precision]
            if points:
                along = [case[x] for case in points]
                codes = [case["codes_seconds"] / case["batch"] for case in points]
                whole = [case["seconds_per_image"] for case in points]
                (line,) = axes.plot(along, whole, marker="o", linewidth=1.3, label=f"{precision}, codes and pixels")
                axes.plot(along, codes, linestyle=":", color=line.get_color(), label=f"{precision}, codes alone")
        axes.set(xscale="log", yscale="log", xlabel=label, ylabel="seconds per picture")
        axes.set_xticks(sorted({case[x] for case in timed if case["part"] == part}))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.minorticks_off()
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            axes.legend(frameon=False)
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type")) if path.suffix == ".svg" else None
    figure.savefig(path, metadata=nothing)


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


def arguments() -> argparse.Namespace:
    """What is wanted; what is not given is as in `FULL` or, with --quick, `QUICK`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cases, as for a CPU")
    parser.add_argument("--presets", nargs="+", help="names of `alitok models`, or B, L, XL")
    parser.add_argument("--batches", nargs="+", type=int, help="of the matrix")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS)
    parser.add_argument("--grids", nargs="+", type=int, help="cells a side, of the part growth")
    parser.add_argument("--growing-batches", nargs="+", type=int, help="of the part batches")
    parser.add_argument("--model", nargs="+", default=[], help="saved pairs for the part exactness")
    parser.add_argument("--pictures", type=int, default=4, help="of the part exactness")
    parser.add_argument("--oracle", action="store_true", help="the matrix beside the slow sampler, once for each case")
    parser.add_argument("--rounds", type=int, default=3, help="turns of all cases")
    parser.add_argument("--repeats", type=int, default=1, help="batches that a case draws in each turn")
    parser.add_argument("--buffer-mib", type=int, default=0, help="for bandwidth; 0: far more than caches hold")
    parser.add_argument("--side", type=int, default=0, help="of the matrices for their rate; 0: by the device")
    parser.add_argument("--plot", type=Path, help="draw the parts growth and batches to this file")
    parser.add_argument("--draw", type=Path, help="measure nothing: the results are in this file, on its last line")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name, value in (QUICK if options.quick else FULL).items():
        setattr(options, name, getattr(options, name) or value)
    return options


def main() -> None:
    """Measure the cases asked for, in turns."""
    options = arguments()
    if options.one:
        from alitok.core.errors import AlitokError

        try:
            found = run(options, Case(**json.loads(options.one)))
        except AlitokError as error:
            found = {"refused": str(error)}
        options.result.write_text(json.dumps(found))
        return
    results = json.loads(options.draw.read_text().splitlines()[-1]) if options.draw else measure(options)
    for part in PARTS:
        if any(case["part"] == part for case in results["cases"]):
            print(f"\n{part}\n\n{table(part, results['cases'])}")
    if options.plot:
        plot(results["cases"], options.plot)
    print(f"\n{json.dumps(results)}")


if __name__ == "__main__":
    main()
