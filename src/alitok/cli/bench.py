"""`alitok bench`: how fast images are drawn here, and how fast they could be."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from alitok.apps.bench.result import BenchResult


def bench(
    model: str | None = None,
    /,
    *,
    preset: str | None = None,
    batch_size: int = 1,
    precision: Literal["fp32", "bf16", "int8"] = "fp32",
    rounds: int = 3,
    threads: int | None = None,
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto",
    guidance: bool = True,
    soft_guidance: Annotated[bool, Parameter(negative="")] = False,
    oracle: Annotated[bool, Parameter(negative="")] = False,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Time whole images, codes and pixels, beside this machine's bandwidth and matrix products in the same run.

    Random weights are as fast as trained ones, so a preset needs no model. Batches that do not fit are refused with the
    largest that does.

    Args:
        model: a saved pair, by its directory or its name on the hub.
        preset: instead of a model, a generator by the name in `alitok models`, or B, L or XL for alitok-256; B unless
            given.
        batch_size: images drawn at a time.
        precision: of the generator; bf16 and int8 (on a CPU) read fewer bytes and are not exact.
        rounds: how often a batch is drawn; the median counts.
        threads: of the CPU.
        device: where to draw.
        guidance: with the model's own guidance, which takes two rows for each image.
        soft_guidance: with SoftCFG.
        oracle: also draw a batch by the slow sampler without a cache, which may take minutes.
        json_: print one JSON object instead of a table.
    """
    from alitok.apps.bench.bench import BenchOptions, run_bench

    result = run_bench(
        BenchOptions(
            model=model,
            preset=preset,
            batch_size=batch_size,
            precision=precision,
            rounds=rounds,
            threads=threads,
            device=device,
            guidance=guidance,
            soft_guidance=soft_guidance,
            oracle=oracle,
        )
    )
    if json_:
        sys.stdout.write(json.dumps(result.to_json(), indent=2) + "\n")
    else:
        _print(result)


def _print(result: BenchResult) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    guidance = ("soft guidance" if result.soft_guidance else "guidance") if result.guided else "no guidance"
    kernels = ", ".join(sorted(set(result.kernels.values())))
    console.print(
        f"[bold]{result.preset or result.model}[/bold]: {result.image_size} pixels, {result.codes} codes, "
        f"{guidance}, batch {result.batch}, {result.dtype} ({kernels}), pixels in {result.decode_precision}"
    )
    console.print(f"{result.device}, threads: {result.threads}, PyTorch {result.torch}\n")
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for head in ("", "measured", "limit of this machine", "share"):
        table.add_column(head, justify="right" if head else "left")
    for row in _rows(result):
        table.add_row(*row)
    console.print(table)


def _rows(result: BenchResult) -> list[tuple[str, ...]]:
    """What, measured, the machine's limit, the share of it that is reached."""
    share = f"{result.share_of_roofline:.0%}"
    rows: list[tuple[str, ...]] = [
        ("seconds per image", f"{result.seconds_per_image:.3f}"),
        ("images per second", f"{result.images_per_second:.3f}"),
        ("codes of a batch", f"{result.codes_seconds:.3f} s"),
        ("pixels of a batch", f"{result.decode_seconds:.3f} s"),
        ("before the first batch", f"{result.prepare_seconds:.1f} s"),
        ("step", f"{result.ms_per_step:.2f} ms", f"{result.limit_ms_per_step:.2f} ms", share),
        (
            f"memory read, {result.bytes_per_step / 1e9:.3g} GB a step",
            f"{result.achieved_gb_s:.1f} GB/s",
            f"{result.bandwidth_gb_s:.1f} GB/s",
            f"{result.share_of_bandwidth:.0%}",
        ),
        (
            f"products, {result.flops_per_step / 1e9:.3g} GFLOP a step",
            f"{result.achieved_tflops:.3g} TFLOP/s",
            f"{result.matmul_tflops:.3g} TFLOP/s",
            f"{result.achieved_tflops / result.matmul_tflops:.0%}",
        ),
        ("key-value cache", f"{result.kv_cache_bytes / 1e9:.2f} GB"),
        ("most memory in use", f"{result.peak_memory_bytes / 1e9:.2f} GB"),
    ]
    if result.largest_batch is not None:
        rows.append(("largest batch that fits", f"{result.largest_batch:,}"))
    if result.oracle_seconds_per_image is not None:
        rows.append(("slow sampler, codes of an image", f"{result.oracle_seconds_per_image:.2f} s"))
        rows.append(("times as fast as it", f"{result.speed_over_oracle:.1f}"))
    return rows
