"""Time and memory of an evaluation, apart from its feature network.

    python benchmarks/evaluation.py                      # 50,000 samples against 10,000 reference images
    python benchmarks/evaluation.py --count 2000 --reference 1000 --images 64

Times Inception (with random weights) on random 256 px images, then, in a separate process, everything else at full
size: random features of Inception's shapes are written block by block, read back and compared, with everything an
evaluation reports. `network_fraction` is the network's time for `count` images over the total; sampling or reading the
images is not included. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from alitok.core.blocks import Blocks, ImageBlock
from alitok.core.device import choose_device
from alitok.core.distributed import World
from alitok.core.system import peak_memory
from alitok.metrics.feature_files import FeatureFiles
from alitok.metrics.features import Features
from alitok.metrics.inception import CLASSES, POOL, SPATIAL, InceptionFeatures
from alitok.metrics.set_distance import Target, compare, extract, features_of, gather

_SIDE, _BLOCK = 256, 256


class StandIn:
    """Random features of Inception's shapes."""

    name, weights, distance = "stand-in", "", "FID"

    def __init__(self, seed: int, device: torch.device) -> None:
        self._random = torch.Generator(device).manual_seed(seed)
        self._device = device
        self._mix = torch.randn(64, POOL, generator=self._random, device=device)

    def __call__(self, images: torch.Tensor) -> Features:
        """Features (B, ...) of B images."""
        count = len(images)

        def draw(width: int) -> torch.Tensor:
            return torch.rand(count, width, generator=self._random, device=self._device)

        pool = torch.randn(count, 64, generator=self._random, device=self._device) @ self._mix + draw(POOL)
        return Features(pool.abs(), draw(SPATIAL), draw(CLASSES).mul(8).softmax(1))


def images(count: int) -> Iterator[ImageBlock]:
    """Blocks of random images, all from the same few."""
    some = np.random.default_rng(0).integers(0, 256, (_BLOCK, 3, _SIDE, _SIDE), np.uint8)
    blocks = Blocks(count, _BLOCK)
    for number in range(len(blocks)):
        rows = blocks[number]
        yield ImageBlock(number, rows, np.zeros(len(rows), np.int64), some[: len(rows)])


def random_inception() -> InceptionFeatures:
    """Inception with PyTorch's initial weights."""
    from torch_fidelity import feature_extractor_inceptionv3 as library

    class Unloaded(library.FeatureExtractorInceptionV3):
        def load_state_dict(self, *args: Any, **kwargs: Any) -> None:
            pass

    with patch.object(library, "load_state_dict_from_url", lambda *args, **kwargs: {}):
        network = Unloaded("random", ["2048", "logits_unbiased"])
    return InceptionFeatures(network, "random", "")


def network_seconds(count: int, device: torch.device) -> float:
    """Seconds per image of Inception as `extract` calls it, after one warmup batch."""
    network = random_inception().to(device)
    some = next(iter(images(count))).images
    features_of(network, some[:32], device)
    began = time.perf_counter()
    for start in range(0, count, len(some)):
        features_of(network, some[: min(len(some), count - start)], device)
    return (time.perf_counter() - began) / count


def rest(options: argparse.Namespace, folder: Path, device: torch.device) -> dict[str, Any]:
    """Seconds of everything but the network, by step, and memory of this process."""
    world, seconds = World(device), {}

    def timed(name: str, work: Any) -> Any:
        began = time.perf_counter()
        found = work()
        seconds[name] = time.perf_counter() - began
        return found

    def written(name: str, count: int, seed: int) -> FeatureFiles:
        files = FeatureFiles(folder / name, Blocks(count, _BLOCK))
        extract(StandIn(seed, device), images(count), files, device)
        return files

    reference = gather(written("reference", options.reference, 1), world)
    assert reference.spatial is not None
    target = Target(reference.pool.total().gaussian(), reference.spatial.gaussian(), reference.features)
    del reference
    before = peak_memory()
    files = timed("write", lambda: written("samples", options.count, 2))
    seen = timed("gather", lambda: gather(files, world))
    found = timed("compare", lambda: compare(seen, target, device=device))
    return {
        "seconds": seconds,
        "distance": found.frechet.value,
        "peak_memory_gb": peak_memory() / 1e9,
        "peak_memory_before_gb": before / 1e9,
        "bytes_on_disk": sum(path.stat().st_size for path in files.root.iterdir()),
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50_000, help="samples")
    parser.add_argument("--reference", type=int, default=10_000, help="images of the reference")
    parser.add_argument("--images", type=int, default=256, help="images to time the network on")
    parser.add_argument("--folder", type=Path, help="parent of the temporary directory with the features")
    parser.add_argument("--device", default="auto", choices=["auto", "cuda", "cpu"])
    parser.add_argument("--rest", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Time the network here, and everything else in a separate process."""
    options = arguments()
    device = choose_device(options.device)
    if options.rest:
        print(json.dumps(rest(options, options.folder, device)))
        return
    each = network_seconds(options.images, device)
    print(f"Inception: {1000 * each:.1f} ms per image", flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        command = [sys.executable, __file__, *sys.argv[1:], "--rest", "--folder", folder]
        found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    total = sum(found["seconds"].values())
    network = each * options.count
    for name, seconds in found["seconds"].items():
        print(f"{name}: {seconds:.1f} s")
    print(f"{options.count:,} images: network {network:,.0f} s, everything else {total:,.0f} s", flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    result = {
        "benchmark": "evaluation",
        "count": options.count,
        "reference": options.reference,
        "network_ms_per_image": 1000 * each,
        "network_seconds": network,
        "rest_seconds": total,
        "network_fraction": network / (network + total),
        **found,
        "machine": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "commit": commit.stdout.strip(),
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
