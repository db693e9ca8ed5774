"""A tokenizer evaluated on validation images, against formulas on all of them at once; and what is rejected."""

import contextlib
import importlib.util
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import alitok.apps.evaluate.reconstruction as workflow
from alitok.apps.evaluate.options import ReconstructionOptions
from alitok.apps.evaluate.reconstruction import run_eval_reconstruction
from alitok.core.checkpoint import save_tensors
from alitok.core.errors import AlitokError
from alitok.generator import Generator, GeneratorConfig
from alitok.losses.perceptual import LpipsVgg, NetworkMissingError
from alitok.metrics.reconstruction import ssim
from alitok.sampling.pipeline import Pipeline

COUNT, BLOCK, CLASSES = 60, 16, ("ant", "bee", "cow")


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A folder of 60 training and 60 validation images, of three classes."""
    root, random = tmp_path_factory.mktemp("real") / "images", np.random.default_rng(0)
    for split, count in (("train", 60), ("val", COUNT)):
        for number in range(count):
            path = root / split / CLASSES[number % 3] / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = random.integers(0, 256, (5, 4, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((16, 20)).save(path)
    return root


def _no_network(name, weights):
    raise NetworkMissingError("a text for trainings", "no network here")


@pytest.fixture
def ask(tmp_path, model, real, extractor, monkeypatch):
    """Runs an evaluation with these options; returns the numbers and what stands in the file."""
    monkeypatch.setattr(workflow, "load_network", _no_network)
    monkeypatch.setattr(workflow, "_BLOCK", BLOCK)

    def run(tokenizer=model, **changes):
        options = ReconstructionOptions(data=str(real), out=tmp_path / "out", seed=5, batch_size=8, device="cpu")
        options = replace(options, **changes)
        found = run_eval_reconstruction(tokenizer, options)
        return found, json.loads((options.out / "evaluation.json").read_text())

    return run


def originals(root, split="val"):
    """Keys, class numbers and images, in the order of their files."""
    paths = sorted((root / split).rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(path))[2:18].transpose(2, 0, 1) for path in paths])
    return (
        [str(path.relative_to(root)) for path in paths],
        np.array([CLASSES.index(path.parent.name) for path in paths]),
        pixels,
    )


def rebuilt(model, images, stage):
    """Straight through the tokenizer, in the batches of `ask`: blocks of 16 in batches of 8."""
    with torch.no_grad():
        parts = [model.reconstruct(some.float() / 255, stage) for some in torch.from_numpy(images).split(8)]
    return np.rint(torch.cat(parts).numpy() * 255).astype(np.uint8)


def decibels(images, made):
    error = ((images.astype(np.float64) - made) / 255) ** 2
    return -10 * np.log10(error.reshape(len(images), -1).mean(1))


def test_the_numbers_are_those_of_all_images_at_once(ask, real, extractor, capsys, tokenizer, features, frechet):
    found, written = ask()
    images, saved = originals(real)[2], tokenizer()
    assert list(found) == ["stage1", "stage2"]
    for stage, numbers in found.items():
        made = rebuilt(saved, images, stage)
        assert numbers["frechet_distance"] == pytest.approx(frechet(features(images), features(made)), rel=1e-6)
        spatial = frechet(features(images, "spatial"), features(made, "spatial"))
        assert numbers["spatial_frechet_distance"] == pytest.approx(spatial, rel=1e-6)
        assert numbers["psnr"] == pytest.approx(decibels(images, made).mean(), rel=1e-5)
        pair = (torch.from_numpy(each).float() / 255 for each in (images, made))
        assert numbers["ssim"] == pytest.approx(ssim(*pair).mean().item(), rel=1e-4)
        assert not {"rfid", "sfid", "kid", "accuracy", "lpips", "kernel_distance", "coverage"} & set(numbers)
        low, high = written["interval"][stage]
        assert low < numbers["frechet_distance"] < high
        assert written["bias"][stage] < numbers["frechet_distance"]
    assert found["stage1"]["frechet_distance"] != found["stage2"]["frechet_distance"]
    with torch.no_grad():
        codes = saved.encode(torch.from_numpy(images).float() / 255).numpy()
    shares = np.bincount(codes.ravel(), minlength=40) / codes.size
    used = shares[shares > 0]
    for numbers in found.values():
        assert numbers["codebook_use"] == len(used) / 40
        assert numbers["codebook_perplexity"] == pytest.approx(np.exp(-(used @ np.log(used))))
        assert numbers["count"] == COUNT
    assert (written["kind"], written["metrics"]) == ("reconstruction", found)
    protocol = written["protocol"]
    assert (protocol["split"], protocol["seed"], protocol["count"]) == ("val", 5, COUNT)
    assert protocol["crop"] == "center, 16 x 16"
    assert {"tokenizer weights", "data contents", "feature weights", "alitok", "torch", "device"} < set(protocol)
    assert written["reference"]["images"] == COUNT
    warnings = " ".join(written["warnings"])
    assert "not FID" in warnings
    assert "LPIPS skipped: its weights are not available (no network here); give their files" in warnings
    printed = capsys.readouterr().out
    assert "stage 1" in printed
    assert "distance of sums" in printed

    shown = extractor.shown
    assert shown == 3 * COUNT
    again, _ = ask()
    assert again == found
    assert extractor.shown == shown, "nothing is computed twice"


def test_the_report_shows_the_worst_and_the_best_with_their_errors(ask, real, read, tmp_path, tokenizer):
    ask()
    page = read((tmp_path / "out" / "report.html").read_text())
    page.check_alone()
    keys, _, images = originals(real)
    made = {stage: rebuilt(tokenizer(), images, stage) for stage in ("stage1", "stage2")}
    last = decibels(images, made["stage2"])
    rows = [sheet for sheet in page.pixels() if sheet.shape == (3, 18, 5 * 17 + 1)]
    assert len(rows) == 12 + 8 + 8
    sheets = [row[:, 1:17, left : left + 16] for row in rows for left in range(1, 5 * 17, 17)]
    for first, row in ((12 * 5, last.argmin()), (20 * 5, last.argmax())):
        assert np.array_equal(sheets[first], images[row])
        assert np.abs(sheets[first + 1].astype(int) - made["stage1"][row]).max() <= 1
        assert np.abs(sheets[first + 3].astype(int) - made["stage2"][row]).max() <= 1
        first_stage = decibels(images, made["stage1"])[row]
        assert f"{keys[row]}: {first_stage:.1f} dB, {last[row]:.1f} dB" in page.text
    chosen = {image.tobytes() for image in sheets[: 12 * 5 : 5]}
    assert len(chosen) == 12
    assert chosen < {image.tobytes() for image in images}
    order = ["Reconstructions", "Worst reconstructions", "Best reconstructions", "Protocol"]
    assert sorted(order, key=page.source.index) == order
    assert "Published" not in page.text


def test_what_was_interrupted_is_continued(ask, tmp_path, use, projections):
    class Stops(projections):
        def __call__(self, images):
            if self.shown >= 4 * BLOCK:  # in the second block: three calls for each
                raise KeyboardInterrupt
            return super().__call__(images)

    use(Stops())
    with pytest.raises(KeyboardInterrupt):
        ask()
    folder = tmp_path / "out" / "features"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert list(before) == ["block-00000.npz"]
    rest = use(projections())
    found, _ = ask()
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(after) == 4
    assert after["block-00000.npz"] == before["block-00000.npz"]
    assert rest.shown == 3 * (COUNT - BLOCK)
    assert ask(out=tmp_path / "at once")[0] == found


def test_two_processes_find_what_one_finds(ask, tmp_path, together):
    alone, _ = ask(out=tmp_path / "alone")

    def work(world):
        workflow.join = lambda device: contextlib.nullcontext(world)  # this process is a fork and ends
        found, _ = ask(out=tmp_path / "two")
        return found

    first, second = together(work)
    assert first == second
    for stage, numbers in alone.items():
        assert first[stage] == pytest.approx(numbers, rel=1e-9)
    written = json.loads((tmp_path / "two" / "evaluation.json").read_text())
    assert written["protocol"]["processes"] == 2
    assert len(list((tmp_path / "two" / "features").iterdir())) == 4


def test_a_tokenizer_without_stage_2_and_a_saved_pair(ask, tmp_path, tokenizer):
    tokenizer(stage2=False).save_pretrained(tmp_path / "first")
    found, written = ask(tokenizer=tmp_path / "first", out=tmp_path / "of first")
    assert list(found) == list(written["metrics"]) == ["stage1"]
    assert "stage 2" not in (tmp_path / "of first" / "report.html").read_text()
    config = GeneratorConfig(grid=4, prefix=4, codebook_size=40, classes=3, layers=1, width=16, heads=2)
    Pipeline(tokenizer(), Generator(config, CLASSES)).save_pretrained(tmp_path / "pair")
    assert ask(tokenizer=tmp_path / "pair", out=tmp_path / "of pair")[0] == ask()[0]
    with pytest.raises(AlitokError, match="of kind 'generator', not 'tokenizer'"):
        ask(tokenizer=tmp_path / "pair" / "generator")


def test_a_classifier_reads_images_and_reconstructions(ask, real, tmp_path, tokenizer, features, use_classifier):
    use_classifier(*CLASSES)
    found, written = ask(features="classifier")
    _, labels, images = originals(real)

    def accuracy(batch):
        return (features(batch, "probabilities").argmax(1) == labels).mean()

    for stage, numbers in found.items():
        assert numbers["original_accuracy"] == pytest.approx(accuracy(images))
        assert numbers["accuracy"] == pytest.approx(accuracy(rebuilt(tokenizer(), images, stage)))
    assert written["protocol"]["classifier val accuracy"] == 0.75
    assert "accuracy, originals" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("where", ["nowhere", "cache", "named"])
def test_for_a_classifier_nothing_is_downloaded(ask, monkeypatch, tmp_path, where):
    pytest.importorskip("torchvision")
    asked = []
    monkeypatch.setattr(workflow, "load_network", lambda name, weights: asked.append(name) or LpipsVgg())
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    if where == "cache":
        (tmp_path / "cache" / "checkpoints").mkdir(parents=True)
        (tmp_path / "cache" / "checkpoints" / "vgg16-397923af.pth").touch()
    _, written = ask(num=4, features="classifier", lpips_vgg="x.pth" if where == "named" else None)
    skipped = "LPIPS skipped: its VGG16 is not cached, and --features classifier downloads nothing"
    assert (skipped in " ".join(written["warnings"])) == (where == "nowhere") == (not asked)


def test_lpips_stands_beside_the_others(ask, monkeypatch, tmp_path):
    pytest.importorskip("torchvision")
    network = LpipsVgg()
    monkeypatch.setattr(workflow, "load_network", lambda name, weights: network)
    found, written = ask(num=10)
    files = np.load(tmp_path / "out" / "features" / "block-00000.npz")
    assert found["stage2"]["lpips"] == pytest.approx(files["stage2/lpips"].mean(dtype=np.float64))
    assert found["stage2"]["lpips"] > 0
    assert len(written["protocol"]["LPIPS weights"]) == 16
    assert not any("LPIPS" in warning for warning in written["warnings"])
    # Other weights are another evaluation.
    with torch.no_grad():
        network.heads[0].mul_(2)
    with pytest.raises(AlitokError, match="LPIPS"):
        ask(num=10)


def test_some_of_a_split_and_other_splits(ask, real, tmp_path, tokenizer):
    images = originals(real, "train")[2]
    found, _ = ask(split="train")
    assert found["stage1"]["count"] == 60
    wanted = decibels(images, rebuilt(tokenizer(), images, "stage1")).mean()
    assert found["stage1"]["psnr"] == pytest.approx(wanted, rel=1e-5)
    for split, num, count in (("all", None, 120), ("val", 2, 2), ("all", 30, 30)):
        found, written = ask(split=split, num=num, out=tmp_path / f"{split} {num}")
        assert found["stage1"]["count"] == written["protocol"]["count"] == count
        assert any("are training images" in warning for warning in written["warnings"]) == (split != "val")
    found, written = ask(num=2, out=tmp_path / "val 2")
    assert written["interval"] == written["bias"] == {"stage1": None, "stage2": None}
    assert any("Too few images (2) to estimate the bias" in warning for warning in written["warnings"])


def test_images_too_small_for_a_measure_go_without_it(ask, tmp_path, tokenizer):
    tokenizer(size=8).save_pretrained(tmp_path / "small")
    found, written = ask(tokenizer=tmp_path / "small")
    assert "psnr" in found["stage1"]
    assert not {"ssim", "lpips"} & set(found["stage1"])
    assert "SSIM skipped: it needs images of at least 11 px, not 8 px." in written["warnings"]
    assert "LPIPS skipped: it needs images of at least 16 px, not 8 px." in written["warnings"]
    with pytest.raises(AlitokError, match="at least 16 px, not 8 px; leave out --lpips-vgg"):
        ask(tokenizer=tmp_path / "small", lpips_vgg="vgg.pth")


def test_images_smaller_than_the_tokenizers_are_reported_or_rejected(ask, tmp_path, tokenizer):
    tokenizer(size=32).save_pretrained(tmp_path / "large")
    _, written = ask(tokenizer=tmp_path / "large")
    assert any("smaller than 32 px and were enlarged" in warning for warning in written["warnings"])
    tokenizer(size=128).save_pretrained(tmp_path / "larger")
    with pytest.raises(AlitokError, match="cannot be used"):
        ask(tokenizer=tmp_path / "larger", out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_broken_image_is_left_out_and_many_are_rejected(ask, tmp_path, real, capsys):
    copy = shutil.copytree(real, tmp_path / "copy")
    broken = copy / "val" / "bee" / "001.png"
    broken.write_bytes(b"no image")
    found, written = ask(data=str(copy))
    assert found["stage1"]["count"] == COUNT - 1
    assert written["protocol"]["left out"] == ["val/bee/001.png"]
    assert "1 broken image is left out" in capsys.readouterr().out
    (copy / "val" / "bee" / "004.png").write_bytes(b"nor this")
    with pytest.raises(AlitokError, match="2 of 120 images"):
        ask(data=str(copy), fresh=True)


def test_saved_statistics_replace_those_of_the_images(ask, real, tokenizer, features, frechet, statistics):
    images = originals(real)[2]
    found, written = ask()
    same, of_file = ask(reference=statistics(features(images), True, kind="reconstruction"))
    for stage in found:
        assert same[stage]["frechet_distance"] == pytest.approx(found[stage]["frechet_distance"], rel=1e-6)
        assert of_file["bias"][stage] == pytest.approx(written["bias"][stage], rel=1e-6)
    assert len(of_file["reference"]["sha256"]) == 64
    assert not any("other images" in warning for warning in of_file["warnings"])
    # Of other images they are another target, which is told.
    others = originals(real, "train")[2]
    found, written = ask(reference=statistics(features(others), True, kind="reconstruction", images="others"))
    wanted = frechet(features(others), features(rebuilt(tokenizer(), images, "stage1")))
    assert found["stage1"]["frechet_distance"] == pytest.approx(wanted, rel=1e-6)
    assert any("is of 60 other images than the 60 that were" in warning for warning in written["warnings"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "adm.npz"}, r"is a reference for generation .* Leave --reference out: the validation images"),
        ({"reference": "generation"}, "is a reference for generation .* not for reconstruction"),
        ({"reference": "network"}, "features of the network 'other', not 'projections'"),
        ({"reference": "resolution"}, "of 32 px images, not 16"),
        ({"reference": "none.npz"}, r"none\.npz does not exist"),
        ({"reference": "texts"}, "is not a file of saved statistics; give the images to reconstruct with --data"),
        ({"tokenizer": "texts"}, r"config\.json does not exist"),
        ({"tokenizer": "nowhere"}, "is not a directory with a saved model"),
        ({"tokenizer": "nan"}, "holds values that are not finite numbers"),
        ({"data": "texts"}, "texts"),
        ({"num": 1}, "needs at least two images, not 1 "),
        ({"num": 61}, r"--num 61 is more than the 60 images \(val\)"),
        ({"batch_size": 0}, "--batch-size must be at least 1, not 0"),
        ({"lpips_heads": "none.pth"}, r"LPIPS weights cannot be used \(no network here\)"),
    ],
)
def test_what_cannot_be_evaluated_is_rejected_before_anything_is_measured(
    ask, tmp_path, real, extractor, changes, message, tokenizer, features, statistics
):
    images = originals(real)[2]
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no image")
    np.savez(tmp_path / "adm.npz", arr_0=images.transpose(0, 2, 3, 1), mu=np.zeros(2048), sigma=np.eye(2048))
    broken = tokenizer()
    broken.save_pretrained(tmp_path / "nan")
    tensors = {name: tensor.clone() for name, tensor in broken.stage2.state_dict().items()}
    tensors["norm_out.bias"][3] = torch.nan
    save_tensors(tmp_path / "nan" / "stage2.safetensors", tensors)
    pool = features(images)
    made = {
        "generation": statistics(pool),
        "network": statistics(pool, kind="reconstruction", network="other"),
        "resolution": statistics(pool, kind="reconstruction", resolution=32),
    }
    for name, value in changes.items():
        if name == "reference":
            changes = {name: made.get(value, str(tmp_path / value))}
        elif name in ("tokenizer", "data"):
            changes = {name: tmp_path / value if name == "tokenizer" else str(tmp_path / value)}
    extractor.shown = 0
    with pytest.raises(AlitokError, match=message):
        ask(**changes)
    assert extractor.shown == 0
    assert not (tmp_path / "out").exists()


def test_what_could_not_be_reported_is_not_begun(ask, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    with pytest.raises(AlitokError, match=r"An evaluation needs matplotlib; .*pip install 'alitok\[eval\]'"):
        ask()
    assert not (tmp_path / "out").exists()


def test_features_that_are_no_numbers_are_reported(ask, use, projections):
    class Broken(projections):
        def __call__(self, images):
            found = super().__call__(images)
            return found._replace(pool=found.pool * torch.nan)

    use(Broken())
    with pytest.raises(AlitokError, match="features of 16 of 16 images are not finite"):
        ask()


def test_another_evaluation_or_foreign_files_are_rejected(ask, tmp_path, tokenizer):
    ask()
    with pytest.raises(AlitokError, match=r"split \(val, now train\).* start over with --fresh"):
        ask(split="train")
    _, written = ask(split="train", fresh=True)
    assert written["protocol"]["split"] == "train"
    tokenizer(stage2=False).save_pretrained(tmp_path / "first")
    with pytest.raises(AlitokError, match=r"conflicting settings: .*tokenizer"):
        ask(split="train", tokenizer=tmp_path / "first")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for fresh in (False, True):
        with pytest.raises(AlitokError, match="is not empty and is not an alitok evaluation directory"):
            ask(out=tmp_path / "mine", fresh=fresh)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
