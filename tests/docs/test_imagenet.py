"""The page on ImageNet: its commands run on an ImageNet of three classes, its numbers recomputed."""

import io
import json
import math
import re
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from alitok.data.codes.shards import shard_images
from alitok.data.sources.opening import open_splits
from alitok.losses.adversarial import Discriminator, DiscriminatorConfig
from alitok.recipes.flops import encoder_flops, generator_step_flops, tokenizer_step_flops
from alitok.recipes.presets import GENERATORS, RECIPES, with_generator

PAGE = "docs/imagenet.md"
WNIDS = "n01440764", "n01443537", "n02099601"
TIMES = "\N{MULTIPLICATION SIGN}"
TRAIN, VAL = 1_281_167, 50_000


def jpeg(draw):
    buffer = io.BytesIO()
    Image.fromarray(draw.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def archives(tmp_path):
    """The original archives: one of archives, a flat one, and the devkit, whose class ids are not in name order."""
    savemat = pytest.importorskip("scipy.io").savemat
    draw = np.random.default_rng(0)
    with tarfile.open(tmp_path / "ILSVRC2012_img_train.tar", "w") as outer:
        for wnid in WNIDS:
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for number in range(4):
                    add(archive, f"{wnid}_{number}.JPEG", jpeg(draw))
            add(outer, f"{wnid}.tar", inner.getvalue())
    numbers = [3, 1, 2, 3, 1, 2]
    with tarfile.open(tmp_path / "ILSVRC2012_img_val.tar", "w") as archive:
        for place in range(1, len(numbers) + 1):
            add(archive, f"ILSVRC2012_val_{place:08d}.JPEG", jpeg(draw))
    kinds = [("ILSVRC2012_ID", float), ("WNID", "U9"), ("words", "U20"), ("num_children", float)]
    rows = [(2, WNIDS[0], "a", 0), (3, WNIDS[1], "b", 0), (1, WNIDS[2], "c", 0), (1001, "n00000000", "parent", 3)]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, dtype=kinds).reshape(-1, 1)})
    with tarfile.open(tmp_path / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        add(archive, "ILSVRC2012_devkit_t12/data/meta.mat", meta.getvalue())
        text = "".join(f"{number}\n" for number in numbers).encode()
        add(archive, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", text)
    return tmp_path


def test_the_commands_build_a_source_with_its_split_as_folder_and_as_archive(archives, block_of, monkeypatch):
    monkeypatch.setenv("ALITOK_CACHE", str(archives / "cache"))
    for holding, program in (("for archive in", ["bash", "-e"]), ("loadmat", [sys.executable, "-"])):
        subprocess.run(program, input=block_of(PAGE, holding), cwd=archives, text=True, check=True)
    subprocess.run(["bash", "-e"], input=block_of(PAGE, "--sort=name"), cwd=archives, text=True, check=True)
    for source in ("imagenet", "imagenet.tar"):
        splits = open_splits(str(archives / source), 16)
        assert splits.train.classes == WNIDS
        assert splits.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
        keys = {splits.val.key(k).rpartition("/")[2]: splits.val.labels[k] for k in range(len(splits.val))}
        wanted = [1, 2, 0, 1, 2, 0]  # of the numbers 3, 1, 2, 3, 1, 2
        assert keys == {f"ILSVRC2012_val_{place:08d}.JPEG": label for place, label in enumerate(wanted, start=1)}
        assert splits.train.verify() == splits.val.verify() == []


def row(pages, begins):
    """The last number of a row of a table on the page, or all numbers in its last cell."""
    line, *_ = [line for line in pages[PAGE].text.splitlines() if line.startswith(f"| {begins} ")]
    return [float(number.replace(",", "")) for number in line.rstrip(" |").rpartition("|")[2].split(" / ")]


def near(found, *wanted):
    return found == pytest.approx(wanted, rel=0.02)


@pytest.fixture
def parameters(root):
    """Those of each stage's trained part, as the benchmark of the full sizes counted them."""
    cases = json.loads((root / "benchmarks" / "results" / "full_size_cpu.json").read_text())["cases"]
    return {case["case"].removeprefix("alitok-256-"): case["trained_parameters"] for case in cases}


def test_disk_sizes_match_the_formulas(pages, parameters):
    recipe = RECIPES["alitok-256"]
    codes = recipe.tokenizer.sequence_length * 2
    assert near(row(pages, "codes, ten crops"), TRAIN * 10 * codes * 1.008 / 1e9)
    assert row(pages, "codes, validation") == pytest.approx([VAL * codes / 1e9], abs=0.005)
    critic = sum(weight.numel() for weight in Discriminator(DiscriminatorConfig()).parameters())
    assert f"discriminator's {critic / 1e6:.1f} million" in pages[PAGE].text
    assert near(row(pages, "a checkpoint of stage 1"), (16 * parameters["stage1"] + 12 * critic) / 1e9)
    second = 16 * parameters["stage2"] + 4 * parameters["stage1"] + 12 * critic
    assert near(row(pages, "a checkpoint of stage 2"), second / 1e9)
    sizes = 177_048_064, 317_851_648, 662_141_696
    assert near(row(pages, "a checkpoint of the generator"), *(16 * size / 1e9 for size in sizes))
    assert near(row(pages, "50,000 samples"), VAL * 3 * 256**2 / 1e9)
    assert -(-TRAIN // shard_images(TRAIN, 10)) < 1024 - 64  # a store's files are all open at once


def test_flops_match_the_formulas(pages):
    recipe = RECIPES["alitok-256"]
    for stage in ("stage1", "stage2"):
        each, training = tokenizer_step_flops(recipe.tokenizer, stage), getattr(recipe, stage)
        steps = sum(phase.steps for phase in training.phases)
        text = f"| {stage[:-1]} {stage[-1]} | {steps:,} {TIMES} {training.loop.batch_size:,} | {each / 1e9:.1f} | "
        assert text + power(steps * training.loop.batch_size * each) in pages[PAGE].text
    encode = encoder_flops(recipe.tokenizer)
    assert f"| {TRAIN * 10:,} | {encode / 1e9:.1f} | {power(TRAIN * 10 * encode)} |" in pages[PAGE].text
    for name in GENERATORS:
        sized = with_generator(recipe, name)
        each, steps = (
            generator_step_flops(sized.generator_size.config(recipe.tokenizer, 1000)),
            sized.generator.phases[0].steps,
        )
        text = f"| generator {name} | {steps:,} {TIMES} 2,048 | {each / 1e9:,.1f} | {power(steps * 2048 * each)} |"
        assert text in pages[PAGE].text


def power(value):
    exponent = math.floor(math.log10(value))
    return f"{value / 10**exponent:.1f} {TIMES} 10{str(exponent).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def test_hours_and_memory_match_the_printed_plan(pages):
    """The page on planning holds the output of the command; this page must agree."""
    command = "alitok plan --preset alitok-256 --generator XL --gpus 32 --gpu a800"
    assert any(command in block.text for block in pages[PAGE].blocks)
    assert command in pages["docs/plan.md"].spans
    (printed,) = [block.text for block in pages["docs/plan.md"].blocks if block.text.startswith("32 x A800")]
    for name, begins in (("stage1", "stage 1"), ("stage2", "stage 2"), ("generator", "generator XL")):
        part = printed[printed.index(f"\n{name}: ") :]
        part = part[: part.index("Fastest that fits")]
        hours = [float(line.split()[-2]) for line in re.findall(r"^(?:start|main|gan) .*$", part, re.MULTILINE)]
        memory = [
            re.search(rf"^{re.escape(layout)}.*$", part, re.MULTILINE)[0] for layout in ("DDP  ", "DDP + act. ckpt")
        ]
        printed_memory = [
            next(each for each in line.split("  ")[::-1] if each.strip().endswith("GB")).strip() for line in memory
        ]
        together = f"{' + '.join(map(str, hours))} = {sum(hours):.1f}" if len(hours) > 1 else str(hours[0])
        assert f"| {begins} | {together} | {printed_memory[0]} | {printed_memory[1]} |" in pages[PAGE].text
