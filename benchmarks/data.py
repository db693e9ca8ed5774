"""Data loading on this machine: stored codes on one thread, and images per core against plain Pillow.

Codes: the writer of `alitok encode` writes a store of 2,000,000 sequences of 272 codes (1.1 GB) to a temporary
folder, and random batches of 256 are read with the training loader, with the whole store in the page cache. Images:
JPEGs of 500 x 375 px cropped from scikit-image's photographs, read at 256 px by a source, alternating with plain
Pillow (open, convert, resize, crop, to numpy).

Prints each measurement, and one JSON object on the last line.

    python benchmarks/data.py                                      # as in docs/performance.md
    python benchmarks/data.py --sequences 20000 --images 40      # the same code, small
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from alitok.core.system import cores
from alitok.data.codes import CodeStore
from alitok.data.codes.shards import StoreHead, StoreWriter, crop_names, shard_images
from alitok.data.loader import Batches, CodeBatches, image_rng
from alitok.data.sources.builtin import PHOTOS
from alitok.data.sources.opening import open_splits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from alitok.data.sources.decoded import ImageSource

LENGTH, CODEBOOK, CLASSES = 272, 4096, 1000
BATCH, ROUNDS = 256, 5
SIZE, PHOTO = 256, (500, 375)


def write_store(path: Path, sequences: int, crops: int) -> None:
    """Random codes, under keys like ImageNet's."""
    images = sequences // crops
    classes = tuple(f"n{1440764 + 13 * number:08d}" for number in range(CLASSES))
    head = StoreHead(
        images=images,
        length=LENGTH,
        codebook_size=CODEBOOK,
        recipe="ten" if crops == 10 else "centre",
        crops=crop_names("ten" if crops == 10 else "centre", crops),
        classes=classes,
        tokenizer="none",
        shard_images=shard_images(images, crops),
    )
    writer, rng = StoreWriter(path, head), np.random.default_rng(0)
    for number in writer.prepare():
        rows = np.array(head.shard(number))
        labels = rows * CLASSES // images
        keys = [f"{classes[label]}/{classes[label]}_{row}.JPEG" for row, label in zip(rows, labels, strict=True)]
        writer.write(number, rng.integers(0, CODEBOOK, (len(rows) * crops, LENGTH), np.uint16), labels, keys)
    assert writer.finish()


def measure_codes(folder: Path, sequences: int, crops: int, batches: int) -> dict:
    """Write, open and read a store."""
    path = folder / "codes"
    began = time.perf_counter()
    write_store(path, sequences, crops)
    written = time.perf_counter() - began
    opening = statistics.median(seconds(lambda: CodeStore(path)) for _ in range(ROUNDS))
    store = CodeStore(path)
    store.verify()  # reads every byte, so that memory holds them
    stream = iter(CodeBatches(store, BATCH, 0))
    first = seconds(lambda: next(stream))  # draws the order of the epoch
    batch = statistics.median(seconds(lambda: consume(stream, batches)) for _ in range(ROUNDS)) / batches
    each = BATCH / batch
    size = sum(file.stat().st_size for file in path.iterdir())
    return {
        "sequences": len(store),
        "crops": store.crops,
        "shards": store.head.shards,
        "store_gb": round(size / 1e9, 3),
        "bytes_per_code": round(size / (len(store) * LENGTH), 4),
        "write_seconds": round(written, 2),
        "open_seconds": round(opening, 4),
        "epoch_start_seconds": round(first, 3),
        "batch_milliseconds": round(batch * 1e3, 3),
        "megabytes_per_second": round(each * LENGTH * 2 / 1e6),
        "sequences_per_second": round(each),
        "sequences_per_second_whole_epoch": round(store.images / (store.images / each + first)),
    }


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def consume(stream: Iterator[object], count: int) -> None:
    """Take so many items."""
    for _ in islice(stream, count):
        pass


def write_photos(root: Path, count: int) -> None:
    """JPEGs cut from photographs, each of its own place and scale."""
    import skimage

    rng = np.random.default_rng(0)
    photos = [Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB") for name in PHOTOS]
    for number in range(count):
        photo = photos[number % len(photos)]
        side = rng.uniform(0.5, 1) * min(photo.width / PHOTO[0], photo.height / PHOTO[1])
        width, height = (round(side * length) for length in PHOTO)
        left, top = rng.integers(photo.width - width + 1), rng.integers(photo.height - height + 1)
        place = root / Path(PHOTOS[number % len(photos)]).stem / f"{number:05d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        photo.crop((left, top, left + width, top + height)).resize(PHOTO).save(place, quality=90)


def plain(path: Path, short: int, corner: Callable[[int, int], tuple[int, int]]) -> np.ndarray:
    """What anybody would write with Pillow: the reference."""
    image = Image.open(path).convert("RGB")
    scale = short / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = corner(image.width - SIZE, image.height - SIZE)
    return np.asarray(image.crop((left, top, left + SIZE, top + SIZE)))


def measure_images(folder: Path, count: int) -> dict:
    """Centre and random crops per core, and batches from worker processes."""
    root = folder / "photos"
    write_photos(root, count)
    source = open_splits(str(root), SIZE).train
    rng = np.random.default_rng(0)

    def centre(width: int, height: int) -> tuple[int, int]:
        return width // 2, height // 2

    def anywhere(width: int, height: int) -> tuple[int, int]:
        return int(rng.integers(width + 1)), int(rng.integers(height + 1))

    found = {
        "centre": compare(source, root, lambda path: plain(path, SIZE, centre), lambda index: source.read(index, None)),
        "random": compare(
            source,
            root,
            lambda path: plain(path, round(1.1 * SIZE), anywhere),
            lambda index: source.read(index, image_rng(0, 0, index)),
        ),
    }
    size, batches = min(64, count), max(2, count // 16)
    stream = iter(Batches(source, size, 0, workers=cores()))
    next(stream)  # the workers are up
    taken = seconds(lambda: consume(stream, batches))
    stream.close()
    return {
        "images": len(source),
        "size": SIZE,
        **found,
        "workers": cores(),
        "workers_images_per_second": round(size * batches / taken, 1),
    }


def compare(
    source: ImageSource, root: Path, reference: Callable[[Path], object], ours: Callable[[int], object]
) -> dict[str, float]:
    """Images a second of both, image by image in turns; the median over rounds of all images."""
    paths = [root / source.key(index) for index in range(len(source))]
    times: dict[str, list[float]] = {"plain": [], "source": []}
    for number in range(ROUNDS + 1):
        taken = {"plain": 0.0, "source": 0.0}
        for index, path in enumerate(paths):
            works = {"plain": lambda path=path: reference(path), "source": lambda index=index: ours(index)}
            for name in sorted(works, reverse=(index + number) % 2 == 1):  # neither is always the one that reads first
                taken[name] += seconds(works[name])
        if number:  # the first round fills the caches
            for name, value in taken.items():
                times[name].append(value / len(paths))
    ratio = statistics.median(p / s for p, s in zip(times["plain"], times["source"], strict=True))
    return {
        "plain_images_per_second": round(1 / statistics.median(times["plain"]), 1),
        "images_per_second": round(1 / statistics.median(times["source"]), 1),
        "share_of_plain": round(ratio, 3),
    }


def main() -> None:
    """Measure codes, then images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=2_000_000, help="rows of the store; 0 leaves it out")
    parser.add_argument("--crops", type=int, choices=(1, 10), default=1, help="rows per image")
    parser.add_argument("--batches", type=int, default=400, help="batches of a round, of which there are five")
    parser.add_argument("--images", type=int, default=400, help="JPEGs; 0 leaves them out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict = {"benchmark": "data"}
    with tempfile.TemporaryDirectory() as temporary:
        if options.sequences:
            result |= measure_codes(Path(temporary), options.sequences, options.crops, options.batches)
            print(
                f"codes     {result['sequences_per_second']:,} sequences/s, {result['megabytes_per_second']:,} MB/s; "
                f"opened in {result['open_seconds']} s, an epoch begins in {result['epoch_start_seconds']} s"
            )
        if options.images:
            result["images"] = images = measure_images(Path(temporary), options.images)
            for kind in ("centre", "random"):
                print(f"{kind:9} {images[kind]}")
            print(f"workers   {images['workers_images_per_second']:,} images/s from {images['workers']} processes")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    result["machine"] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pillow": Image.__version__,
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "commit": commit.stdout.strip(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
