"""A whole probe: its files against direct calls of the metrics, and what it rejects."""

import importlib.util
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import alitok.apps.probe.probe as command
import alitok.apps.probe.report as report
from alitok.apps.probe.options import ProbeOptions
from alitok.apps.probe.probe import default_out, probe_directory, probed, run_probe
from alitok.core.errors import AlitokError
from alitok.core.images import png_bytes
from alitok.data.sources.opening import open_splits
from alitok.generator import Generator, GeneratorConfig
from alitok.metrics import mutual
from alitok.metrics.influence import influence_of
from alitok.metrics.mutual import mutual_information
from alitok.metrics.reach import reach_of
from alitok.report import heat
from alitok.tokenizer import DecoderConfig, EncoderConfig, Tokenizer, TokenizerConfig
from alitok.tokenizer.model import TokenizerCodec
from alitok.train.predictability import PredictabilityConfig, measure_predictability, predict_codes

SMALL = {"width": 8, "layers": 1, "heads": 2}
TRAINING = PredictabilityConfig(images=30, steps=3, batch_size=8, layers=1, width=8, heads=2)
DRAW_MAPS = heat.draw_maps
VAL, TRAIN, CLASSES = 24, 40, ("ant", "bee")
FILES = ["influence.png", "maps.npz", "probe.json", "reach.png", "report.html"]
CODEC = """
import torch

class Codec:
    image_size = 12

    def encode(self, images):
        return (torch.nn.functional.avg_pool2d(images.mean(1), 4).flatten(1) * 50).long() * 1000

    def decode(self, codes):
        light = (codes / 50000).view(-1, 1, 3, 3).expand(-1, 3, -1, -1)
        return light.repeat_interleave(4, 2).repeat_interleave(4, 3)

class Prefixed(Codec):
    grid = 2

    def encode(self, images):
        return super().encode(images)[:, :6]

    def decode(self, codes):
        return torch.full((len(codes), 3, 12, 12), 0.5)
"""


def tokenizer():
    torch.manual_seed(0)
    found = Tokenizer(
        TokenizerConfig(
            image_size=12,
            patch_size=4,
            codebook_size=20,
            code_width=4,
            encoder=EncoderConfig(**SMALL),
            stage1=DecoderConfig(**SMALL, causal=True, extra_tokens=1, prefix_head=True),
            stage2=DecoderConfig(**SMALL, extra_tokens=2),
        )
    ).eval()
    with torch.no_grad():  # a codebook of features, far enough apart to be seen in the image
        found.encoder.to_features.weight *= 20
        for decoder in (found.stage1, found.stage2):
            decoder.head.to_pixels.weight *= 20
        features = found.encoder(torch.rand(20, 3, 12, 12))
        found.quantizer.codebook.copy_(features[torch.arange(20), torch.arange(20) % 12])
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tokenizer"
    tokenizer().save_pretrained(path)
    return path


def save_generator(path, names=CLASSES, **changes):
    torch.manual_seed(1)
    settings = {"grid": 3, "prefix": 3, "codebook_size": 20, "classes": 2, **SMALL, **changes}
    generator = Generator(GeneratorConfig(**settings), names)
    torch.nn.init.normal_(generator.output.weight)
    generator.save_pretrained(path)
    return generator.eval()


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Images of two classes, with a split."""
    root, random = tmp_path_factory.mktemp("real") / "images", np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("val", VAL)):
        for number in range(count):
            path = root / split / CLASSES[number % 2] / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)
    return root


@pytest.fixture
def ask(tmp_path, model, real, monkeypatch):
    """Runs a probe with these options without plotting its maps; returns the numbers and the content of its file."""
    for module in (report, heat):
        monkeypatch.setattr(module, "draw_maps", lambda maps: png_bytes(np.zeros((3, 2, 2), np.uint8)))

    def run(**changes):
        options = ProbeOptions(
            tokenizer=str(model),
            data=str(real),
            out=tmp_path / "out",
            seed=3,
            images=10,
            batch_size=7,
            device="cpu",
        )
        options = replace(options, **changes)
        found = run_probe(options, command="alitok probe <this>", training=TRAINING)
        return found, json.loads((options.out / "probe.json").read_text())

    return run


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module with other tokenizers, in the current folder."""
    name = f"other_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(CODEC)
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


def some_images(real, split, count):
    """The first `count` images of a split in the order of seed 3, and their labels."""
    source = getattr(open_splits(str(real), 12, 3), split)
    rows = np.random.default_rng(3).permutation(len(source))[:count]
    images = np.stack([source.read(int(row), None) for row in rows])
    return torch.from_numpy(images).float() / 255, torch.from_numpy(source.labels[rows])


@torch.no_grad()
def test_numbers_and_maps_are_those_of_the_metrics(ask, real, tmp_path, capsys):
    found, written = ask()
    model, (val, _), (train, _) = tokenizer(), some_images(real, "val", VAL), some_images(real, "train", 30)
    influence = influence_of(TokenizerCodec(model), val[:10], grid=3, prefix=3, seed=3, batch_size=7)
    codes, train_codes = model.encode(val), model.encode(train)
    maps = np.load(tmp_path / "out" / "maps.npz")
    for name, kind in (("influence", "codes"), ("feature_influence", "features")):
        assert np.array_equal(maps[name], getattr(influence, kind).mean)
        assert np.array_equal(maps[f"{name}_error"], getattr(influence, kind).error)
    assert np.array_equal(maps["probability_influence"], influence.probabilities.mean)
    fractions = influence.codes.fractions
    assert found["influence_future"] == influence.future_fraction == fractions["all"].future.value
    assert found["influence_future_grid"] == fractions["grid"].future.value
    assert found["influence_future_prefix"] == fractions["prefix"].future.value
    assert found["feature_influence_future"] == influence.features.fractions["all"].future.value
    assert found["influence_own"] + found["influence_past"] + found["influence_future"] == pytest.approx(1)
    assert written["influence"]["fractions"]["influence"]["grid"]["future"] == fractions["grid"].future._asdict()
    assert (written["influence"]["exact"], written["influence"]["perturbations"]) == (True, 90)
    for stage in ("stage1", "stage2"):
        codec = TokenizerCodec(model, stage)
        reach = reach_of(codec, codes[:10], image_size=12, grid=3, prefix=3, seed=3, batch_size=7)
        assert np.array_equal(maps[f"{stage}_reach"], reach.pixels.mean)
        assert found[f"{stage}_reach_past"] == reach.past_fraction
    assert found["stage1_reach_past"] == 0 < found["stage2_reach_past"]
    config = {"grid": 3, "prefix": 3, "codebook_size": 20, "config": TRAINING, "device": torch.device("cpu"), "seed": 3}
    probed = measure_predictability(train_codes, codes, **config)
    assert found["accuracy"] == pytest.approx(probed.accuracy)
    assert found["bits_per_image"] == pytest.approx(probed.bits_per_image)
    assert found["grid_bits_per_image"] == pytest.approx(probed.grid_bits_per_image)
    assert found["train_accuracy"] == probed.train_accuracy
    assert tuple(maps["nats"]) == probed.nats == tuple(written["predictions"]["nats"])
    expected_mutual = mutual_information(torch.cat([train_codes, codes]).numpy(), seed=3)
    assert np.array_equal(maps["mutual_bits"], expected_mutual.bits, equal_nan=True)
    assert found["mutual_bits_before"] == expected_mutual.mean_bits_at(1)
    assert found["mutual_bits_above"] == expected_mutual.mean_bits_at(3, 3)
    assert (written["numbers"], written["kind"]) == (found, "probe")
    protocol = written["protocol"]
    assert protocol["codes"] == model.codes_fingerprint()
    assert (protocol["perturbed images"], protocol["predicted images"], protocol["training images"]) == (10, 24, 30)
    assert {"tokenizer weights", "data contents", "seed", "torch", "device", "generator training"} < set(protocol)
    assert set(written["seconds"]) == {"codes", "influence", "reach", "prediction", "mutual"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    printed = capsys.readouterr().out
    assert "influence, future" in printed
    assert "Written: " in printed


def test_the_report_has_all_maps_and_numbers_and_needs_no_network(ask, read, tmp_path, monkeypatch):
    for module in (report, heat):
        monkeypatch.setattr(module, "draw_maps", DRAW_MAPS)
    found, written = ask(images=500)
    page = read((tmp_path / "out" / "report.html").read_text())
    page.check_alone()
    order = ["Warnings", "Numbers", "Which patches change which codes", "Which patches change one code"]
    order += ["Which patches a code changes", "Curves", "Mutual information of the codes", "Protocol"]
    headings = [page.source.index(f"<h2>{heading}</h2>") for heading in order]
    assert headings == sorted(headings)
    assert all(name in page.text for name in found)
    assert "alitok probe <this>" in page.text
    assert f"{found['influence_future']:.1%}" in page.text
    assert "It is 0 for a causal decoder" in page.text
    sheets = page.sheets()
    assert len([sheet for sheet in sheets if "patches that change the code" in sheet["alt"]]) == 8
    assert len(sheets) == 3 + 8 + 2 + 1
    assert page.source.count("<svg") == 3
    assert written["influence"]["images"] == VAL
    assert any("Only 24 of the 500 requested validation images" in warning for warning in written["warnings"])
    assert all(warning in page.text for warning in written["warnings"])


def test_a_generator_is_conditioned_on_the_classes_of_the_images_by_name(ask, real, tmp_path):
    generator = save_generator(tmp_path / "generator", names=("bee", "ant"))
    found, written = ask(generator=str(tmp_path / "generator"))
    val, labels = some_images(real, "val", VAL)
    with torch.no_grad():
        codes = tokenizer().encode(val)
    expected = predict_codes(generator, codes, 1 - labels, 64)  # ant and bee stand the other way round there
    assert found["bits_per_image"] == pytest.approx(expected.nats.sum(1).mean().item() / math.log(2), rel=1e-5)
    assert found["accuracy"] == pytest.approx(expected.correct.double().mean().item())
    assert predict_codes(generator, codes, labels, 64).nats.mean() != pytest.approx(
        expected.nats.mean().item(), rel=1e-6
    )
    assert "train_accuracy" not in found
    assert "generator weights" in written["protocol"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": 4}, "predicts 3 prefix and 4 x 4 grid codes out of 20, but .* has 3, 3 x 3 and 20"),
        ({"codebook_size": 21}, "out of 21"),
        ({"names": ("ant", "cow")}, "has 2 classes, not all of the 2 of .* \\(not 'bee'\\)"),
        ({"names": (), "classes": 3}, "has 3 classes, not all of the 2"),
    ],
)
def test_a_generator_of_other_codes_or_classes_is_rejected(ask, tmp_path, changes, message):
    save_generator(tmp_path / "generator", **changes)
    with pytest.raises(AlitokError, match=message):
        ask(generator=str(tmp_path / "generator"))
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_of_a_module(ask, module, tmp_path, read):
    found, written = ask(tokenizer=f"{module}:Codec")
    assert (found["influence_own"], found["influence_future"]) == (pytest.approx(1), 0)
    assert found["decoder_reach_own"] == pytest.approx(1)
    assert not [name for name in found if "feature" in name or "prefix" in name]
    assert (written["layout"], written["protocol"]["codebook size"]) == (
        {"grid": 3, "prefix": 0, "codes": 9},
        "unknown",
    )
    assert written["protocol"]["module's file"] == f"{module}.py"
    assert 0 < found["bits_per_image"] < 9 * math.log2(50) + 10, "codes up to 50,000 are renumbered"
    read((tmp_path / "out" / "report.html").read_text()).check_alone()


def test_a_tokenizer_with_a_prefix_whose_decoder_ignores_its_input(ask, module):
    found, written = ask(tokenizer=f"{module}:Prefixed")
    assert written["layout"] == {"grid": 2, "prefix": 2, "codes": 6}
    assert math.isnan(found["decoder_reach_past"])
    assert written["numbers"]["decoder_reach_past"] is None
    assert any("No code changes any patch (decoder)" in warning for warning in written["warnings"])


def test_a_generator_with_a_smaller_codebook_than_the_module_is_rejected(ask, module, tmp_path):
    save_generator(tmp_path / "generator", prefix=0)
    with pytest.raises(AlitokError, match=r"returns code .*, but .* has 20"):
        ask(tokenizer=f"{module}:Codec", generator=str(tmp_path / "generator"))
    assert not (tmp_path / "out").exists()


def test_the_same_seed_gives_the_same_and_a_sample_is_reported(ask, read, tmp_path):
    first, again, other = ask()[0], ask()[0], ask(seed=4)[0]
    assert again == first != other
    sampled, written = ask(per_position=4)
    assert (written["influence"]["exact"], written["influence"]["perturbations"]) == (False, 36)
    assert sampled["influence_future"] != first["influence_future"]
    page = read((tmp_path / "out/report.html").read_text()).text
    assert "Patches of 10 validation images were replaced one at a time, each in 4 random ones of them" in page


def test_unreadable_images_are_skipped_and_named(ask, real, tmp_path, capsys):
    copy = tmp_path / "copy"
    for path in sorted(real.rglob("*.png")):
        target = copy / path.relative_to(real)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes()[:60] if path.stem == "005" else path.read_bytes())
    _, written = ask(data=str(copy))
    assert len(written["protocol"]["left out"]) == 2
    assert written["protocol"]["predicted images"] == VAL - 1
    assert "2 broken images are left out" in capsys.readouterr().out


def test_too_little_data_is_rejected(ask, tmp_path):
    for split, count in (("train", 3), ("val", 1)):
        for number in range(count):
            path = tmp_path / "few" / split / "ant" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12, 12), (number, 0, 0)).save(path)
    with pytest.raises(AlitokError, match=r"at least two validation images are needed; .* has 1 readable"):
        ask(data=str(tmp_path / "few"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 1}, "--images must be at least 2, not 1"),
        ({"per_position": 1}, "--per-position must be at least 2"),
        ({"batch_size": 1}, "--batch-size must be at least 2"),
        ({"grid": 0}, "--grid must be at least 1"),
        ({"image_size": -3}, "--image-size must be at least 1"),
        ({"image_size": 12}, "leave --image-size out"),
        ({"data": "no/such/folder"}, "no/such/folder"),
    ],
)
def test_wrong_options_are_rejected(ask, changes, message, tmp_path):
    with pytest.raises(AlitokError, match=message):
        ask(**changes)
    assert not (tmp_path / "out").exists()


def test_what_could_not_be_finished_is_not_begun(ask, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(AlitokError, match="is a file; give a directory"):
        ask(out=tmp_path / "file")
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        with pytest.raises(AlitokError, match="one process; start it without torchrun"):
            ask()
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    with pytest.raises(AlitokError, match="needs matplotlib; install with"):
        ask()


def test_nothing_half_written_is_left(ask, tmp_path, monkeypatch):
    def stop(*words, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr("alitok.core.files.commit", stop)
    with pytest.raises(KeyboardInterrupt):
        ask()
    assert not list((tmp_path / "out").iterdir())


def test_overfitting_and_too_few_images_are_warned_of(ask, monkeypatch, capsys):
    monkeypatch.setattr(command, "_OVERFIT", -1.0)
    monkeypatch.setattr(mutual, "_MAX_CHANCE", -1.0)
    _, written = ask()
    overfits, too_few = written["warnings"]
    assert "overfits" in overfits
    assert "54 images are too few for mutual information" in too_few
    assert "Note: 54 images are too few" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("tokenizer", "data", "generator", "expected"),
    [
        ("package.module:name", "shards/*.tar", None, "runs/probe-package.module_name-tar"),
        ("models/a", "digits", None, "runs/probe-a-digits"),
        ("model", "digits", None, f"runs/probe-{Path.cwd().name}-digits"),
        ("runs/demo/model", "digits", None, "runs/probe-demo-digits"),
        ("runs/demo/model/tokenizer", "digits", None, "runs/probe-demo-digits"),
        ("runs/demo", "digits", "runs/demo/model", "runs/probe-demo-digits-generator"),
        ("runs/demo/stage1/tokenizer", "digits", None, "runs/probe-demo-stage1-digits"),
    ],
)
def test_the_directory_is_named_after_the_run_and_the_data(tokenizer, data, generator, expected):
    assert str(default_out(ProbeOptions(tokenizer=tokenizer, data=data, generator=generator))) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer": "other.module:name"}, "tokenizer"),
        ({"data": "digits"}, "data"),
        ({"generator": "models/a"}, r"generator \(a small one, trained for this, now models/a\)"),
    ],
)
def test_a_probe_of_something_else_is_not_replaced(ask, tmp_path, changes, message):
    _, written = ask()
    with pytest.raises(AlitokError, match=rf"out was begun with conflicting settings: {message}"):
        ask(**changes)
    assert json.loads((tmp_path / "out/probe.json").read_text()) == written


def test_another_spelling_of_the_same_tokenizer_is_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "demo" / "model").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    options = ProbeOptions(tokenizer="runs/demo/model", data="digits", out=tmp_path / "out")
    (tmp_path / "out" / "probe.json").write_text(json.dumps({"kind": "probe", "protocol": probed(options)}))
    for spelling in ("runs/demo/model", "./runs/demo/model/", str(tmp_path / "runs" / "demo" / "model")):
        assert probe_directory(replace(options, tokenizer=spelling)) == tmp_path / "out"
    with pytest.raises(AlitokError, match="conflicting settings: tokenizer"):
        probe_directory(replace(options, tokenizer="runs/demo"))


def test_other_files_are_not_replaced(ask, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/report.html").write_text("")  # as left by a probe that was stopped while it wrote
    (tmp_path / "out/run.toml").write_text("")
    with pytest.raises(AlitokError, match="is not an alitok probe directory; give a new or empty one"):
        ask()
    (tmp_path / "out/run.toml").unlink()
    ask()
    (tmp_path / "out/probe.json").write_text('{"kind": "evaluation"}')
    with pytest.raises(AlitokError, match="was not written by alitok probe"):
        ask()
