"""A tokenizer probed from the command's options to its files: numbers against direct calls, and what is refused."""

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

import alitok.apps.probe.probe as workflow
import alitok.apps.probe.report as report
from alitok.apps.probe.place import probed, require_place
from alitok.apps.probe.probe import ProbeOptions, run_probe
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
from alitok.tokenizer.codec import TokenizerCodec
from alitok.train.next_code import predict_codes
from alitok.train.predictability import PredictabilityConfig, measure_predictability

SMALL = {"width": 8, "layers": 1, "heads": 2}
TRAINING = PredictabilityConfig(images=30, steps=3, batch_size=8, layers=1, width=8, heads=2)
HELD, TRAIN, CLASSES = 24, 40, ("ant", "bee")
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
    for split, count in (("train", TRAIN), ("val", HELD)):
        for number in range(count):
            path = root / split / CLASSES[number % 2] / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)
    return root


@pytest.fixture
def ask(tmp_path, model, real, monkeypatch):
    """Runs a probe with these options, its maps not drawn; returns the numbers and what stands in the file."""
    monkeypatch.setattr(report, "draw_maps", lambda maps: png_bytes(np.zeros((3, 2, 2), np.uint8)))

    def run(**changes):
        options = ProbeOptions(
            str(model),
            str(real),
            tmp_path / "out",
            seed=3,
            images=10,
            batch_size=7,
            device="cpu",
            training=TRAINING,
            command="alitok probe <this>",
        )
        options = replace(options, **changes)
        found = run_probe(options)
        return found, json.loads((options.place / "probe.json").read_text())

    return run


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module with tokenizers of somebody else, in the current folder."""
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
def test_numbers_and_maps_are_those_of_the_parts(ask, real, tmp_path, capsys):
    found, written = ask()
    model, (held, _), (train, _) = tokenizer(), some_images(real, "val", HELD), some_images(real, "train", 30)
    influence = influence_of(TokenizerCodec(model), held[:10], grid=3, prefix=3, seed=3, batch_size=7)
    codes, train_codes = model.encode(held), model.encode(train)
    maps = np.load(tmp_path / "out" / "maps.npz")
    for name, kind in (("influence", "codes"), ("feature_influence", "features")):
        assert np.array_equal(maps[name], getattr(influence, kind).mean)
        assert np.array_equal(maps[f"{name}_error"], getattr(influence, kind).error)
    assert np.array_equal(maps["probability_influence"], influence.probabilities.mean)
    shares = influence.codes.shares
    assert found["influence_future"] == influence.future_share == shares["all"].future.value
    assert found["influence_future_grid"] == shares["grid"].future.value
    assert found["influence_future_prefix"] == shares["prefix"].future.value
    assert found["feature_influence_future"] == influence.features.shares["all"].future.value
    assert found["influence_own"] + found["influence_past"] + found["influence_future"] == pytest.approx(1)
    assert written["influence"]["shares"]["influence"]["grid"]["future"] == shares["grid"].future._asdict()
    assert (written["influence"]["exact"], written["influence"]["pairs"]) == (True, 90)
    for stage in ("stage1", "stage2"):
        codec = TokenizerCodec(model, stage)
        reach = reach_of(codec, codes[:10], image_size=12, grid=3, prefix=3, seed=3, batch_size=7)
        assert np.array_equal(maps[f"{stage}_reach"], reach.pixels.mean)
        assert found[f"{stage}_reach_past"] == reach.past_share
    assert found["stage1_reach_past"] == 0 < found["stage2_reach_past"]
    config = {"grid": 3, "prefix": 3, "codebook_size": 20, "config": TRAINING, "device": torch.device("cpu"), "seed": 3}
    probed = measure_predictability(train_codes, codes, **config)
    assert found["accuracy"] == pytest.approx(probed.accuracy)
    assert found["bits_per_image"] == pytest.approx(probed.bits_per_image)
    assert found["grid_bits_per_image"] == pytest.approx(probed.grid_bits_per_image)
    assert found["train_accuracy"] == probed.train_accuracy
    assert tuple(maps["nats"]) == probed.nats == tuple(written["loss"]["nats"])
    told_of = mutual_information(torch.cat([train_codes, codes]).numpy(), seed=3)
    assert np.array_equal(maps["mutual_bits"], told_of.bits, equal_nan=True)
    assert found["mutual_bits_before"] == told_of.mean_bits_at(1)
    assert found["mutual_bits_above"] == told_of.mean_bits_at(3, 3)
    assert (written["numbers"], written["kind"]) == (found, "probe")
    protocol = written["protocol"]
    assert protocol["codes"] == model.codes_fingerprint()
    assert (protocol["images disturbed"], protocol["images guessed"], protocol["training images"]) == (10, 24, 30)
    assert {"tokenizer weights", "data contents", "seed", "torch", "device", "its training"} < set(protocol)
    assert set(written["seconds"]) == {"codes", "influence", "reach", "loss", "mutual"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    told = capsys.readouterr().out
    assert "influence, from the future" in told
    assert "Written: " in told


def test_the_report_has_the_maps_a_sentence_for_each_number_and_no_network(ask, read, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "draw_maps", heat.draw_maps)
    found, written = ask(images=500)
    page = read((tmp_path / "out" / "report.html").read_text())
    page.check_alone()
    order = ["Warnings", "Numbers", "Which patches move which codes", "Which patches move one code"]
    order += ["Which patches a code moves", "Curves", "What codes tell of one another", "Protocol"]
    headings = [page.source.index(f"<h2>{heading}</h2>") for heading in order]
    assert headings == sorted(headings)
    assert all(name in page.text for name in found)
    assert "alitok probe <this>" in page.text
    assert f"{found['influence_future']:.1%}" in page.text
    assert "This decoder is causal" in page.text
    assert "no patch of this decoder is final" in page.text
    sheets = page.sheets()
    assert len([sheet for sheet in sheets if "patches that move the code" in sheet["alt"]]) == 8
    assert len(sheets) == 3 + 8 + 2 + 1
    assert page.source.count("<svg") == 3
    assert written["influence"]["images"] == HELD
    assert any("24 validation images to disturb, fewer than the 500" in warning for warning in written["warnings"])
    assert all(warning in page.text for warning in written["warnings"])


def test_a_generator_is_told_the_classes_of_the_images_by_their_names(ask, real, tmp_path):
    generator = save_generator(tmp_path / "generator", names=("bee", "ant"))
    found, written = ask(generator=str(tmp_path / "generator"))
    held, labels = some_images(real, "val", HELD)
    with torch.no_grad():
        codes = tokenizer().encode(held)
    expected = predict_codes(generator, codes, 1 - labels, 64)  # ant and bee stand the other way round there
    assert found["bits_per_image"] == pytest.approx(expected.nats.sum(1).mean().item() / math.log(2), rel=1e-5)
    assert found["accuracy"] == pytest.approx(expected.correct.double().mean().item())
    assert predict_codes(generator, codes, labels, 64).nats.mean() != pytest.approx(
        expected.nats.mean().item(), rel=1e-6
    )
    assert "train_accuracy" not in found
    assert "generator weights" in written["protocol"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"grid": 4}, "guesses 3 prefix and 4 x 4 grid codes out of 20, but .* has 3, 3 x 3 and 20"),
        ({"codebook_size": 21}, "out of 21"),
        ({"names": ("ant", "cow")}, "knows 2 classes, and not all of 2 of .* \\(not 'bee'\\)"),
        ({"names": (), "classes": 3}, "knows 3 classes, and not all of 2"),
    ],
)
def test_a_generator_of_other_codes_or_classes_is_refused(ask, tmp_path, changes, said):
    save_generator(tmp_path / "generator", **changes)
    with pytest.raises(AlitokError, match=said):
        ask(generator=str(tmp_path / "generator"))
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_of_somebody_else(ask, module, tmp_path, read):
    found, written = ask(tokenizer=f"{module}:Codec")
    assert (found["influence_own"], found["influence_future"]) == (pytest.approx(1), 0)
    assert found["decoder_reach_own"] == pytest.approx(1)
    assert not [name for name in found if "feature" in name or "prefix" in name]
    assert (written["layout"], written["protocol"]["codebook"]) == ({"grid": 3, "prefix": 0, "codes": 9}, "not stated")
    assert written["protocol"]["module's file"] == f"{module}.py"
    assert 0 < found["bits_per_image"] < 9 * math.log2(50) + 10, "codes up to 50,000 are numbered by those that come"
    read((tmp_path / "out" / "report.html").read_text()).check_alone()


def test_one_with_a_prefix_whose_decoder_reads_nothing(ask, module):
    found, written = ask(tokenizer=f"{module}:Prefixed")
    assert written["layout"] == {"grid": 2, "prefix": 2, "codes": 6}
    assert math.isnan(found["decoder_reach_past"])
    assert written["numbers"]["decoder_reach_past"] is None
    assert any("No code moves any patch (decoder)" in warning for warning in written["warnings"])


def test_a_generator_that_does_not_know_all_codes_of_somebody_else_is_refused(ask, module, tmp_path):
    save_generator(tmp_path / "generator", prefix=0)
    with pytest.raises(AlitokError, match=r"gives code .*, and .* knows those below 20"):
        ask(tokenizer=f"{module}:Codec", generator=str(tmp_path / "generator"))
    assert not (tmp_path / "out").exists()


def test_the_same_seed_gives_the_same_and_a_sample_says_so(ask, read, tmp_path):
    first, again, other = ask()[0], ask()[0], ask(seed=4)[0]
    assert again == first != other
    sampled, written = ask(per_place=4)
    assert (written["influence"]["exact"], written["influence"]["pairs"]) == (False, 36)
    assert sampled["influence_future"] != first["influence_future"]
    assert (
        "Each patch was replaced in 4 of 10 validation images" in read((tmp_path / "out/report.html").read_text()).text
    )


def test_images_that_cannot_be_read_are_passed_over_and_named(ask, real, tmp_path, capsys):
    copy = tmp_path / "copy"
    for path in sorted(real.rglob("*.png")):
        target = copy / path.relative_to(real)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes()[:60] if path.stem == "005" else path.read_bytes())
    _, written = ask(data=str(copy))
    assert len(written["protocol"]["left out"]) == 2
    assert written["protocol"]["images guessed"] == HELD - 1
    assert "2 broken images are left out" in capsys.readouterr().out


def test_data_that_is_too_small_is_refused(ask, tmp_path):
    for split, count in (("train", 3), ("val", 1)):
        for number in range(count):
            path = tmp_path / "few" / split / "ant" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12, 12), (number, 0, 0)).save(path)
    with pytest.raises(AlitokError, match=r"at least two validation images are needed; .* has 1 that can be read"):
        ask(data=str(tmp_path / "few"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": 1}, "--images must be at least 2, not 1"),
        ({"per_place": 1}, "--per-place must be at least 2"),
        ({"batch_size": 1}, "--batch-size must be at least 2"),
        ({"grid": 0}, "--grid must be at least 1"),
        ({"image_size": -3}, "--image-size must be at least 1"),
        ({"image_size": 12}, "leave --image-size out"),
        ({"data": "no/such/folder"}, "no/such/folder"),
    ],
)
def test_wrong_options_are_refused(ask, changes, said, tmp_path):
    with pytest.raises(AlitokError, match=said):
        ask(**changes)
    assert not (tmp_path / "out").exists()


def test_what_could_not_be_concluded_is_not_begun(ask, tmp_path, monkeypatch):
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


def test_what_a_reader_must_know_is_told(ask, monkeypatch, capsys):
    monkeypatch.setattr(workflow, "_BY_HEART", -1.0)
    monkeypatch.setattr(mutual, "_ENOUGH", -1.0)
    _, written = ask()
    by_heart, too_few = written["warnings"]
    assert "by heart" in by_heart
    assert "54 images are too few for mutual information" in too_few
    assert "Note: 54 images are too few" in capsys.readouterr().out


def test_the_directory_is_named_after_tokenizer_and_data():
    options = ProbeOptions("package.module:name", "shards/*.tar")
    assert str(options.place) == "runs/probe-package.module_name-tar"
    assert ProbeOptions("models/a", "digits").place.name == "probe-a-digits"
    assert ProbeOptions("model", "digits").place.name == f"probe-{Path.cwd().name}-digits"


@pytest.mark.parametrize("path", ["runs/demo/model", "runs/demo/model/tokenizer", "runs/demo"])
def test_a_model_of_a_run_has_the_runs_name_and_a_generator_is_told(path):
    assert str(ProbeOptions(path, "digits").place) == "runs/probe-demo-digits"
    assert str(ProbeOptions(path, "digits", generator=path).place) == "runs/probe-demo-digits-generator"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tokenizer": "other.module:name"}, "tokenizer: .*tokenizer, not other.module:name"),
        ({"data": "digits"}, "data: .*images, not digits"),
        ({"generator": "models/a"}, "generator: a small one, trained for this, not models/a"),
    ],
)
def test_a_probe_of_something_else_is_not_replaced(ask, tmp_path, changes, told):
    _, written = ask()
    with pytest.raises(AlitokError, match=rf"out holds a probe of something else \({told}\); give another directory"):
        ask(**changes)
    assert json.loads((tmp_path / "out/probe.json").read_text()) == written


def test_another_spelling_of_the_same_tokenizer_is_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "demo" / "model").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "probe.json").write_text(
        json.dumps({"kind": "probe", "protocol": probed("runs/demo/model", "digits", None)})
    )
    for spelling in ("runs/demo/model", "./runs/demo/model/", str(tmp_path / "runs" / "demo" / "model")):
        require_place(tmp_path / "out", probed(spelling, "digits", None))
    with pytest.raises(AlitokError, match="holds a probe of something else"):
        require_place(tmp_path / "out", probed("runs/demo", "digits", None))


def test_the_tokenizer_of_stage_1_has_the_runs_name_too():
    assert str(ProbeOptions("runs/demo/stage1/tokenizer", "digits").place) == "runs/probe-demo-stage1-digits"


def test_other_files_are_not_replaced(ask, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/report.html").write_text("")  # as a probe leaves that was stopped while it wrote
    ask()
    (tmp_path / "out/run.toml").write_text("")
    with pytest.raises(AlitokError, match=r"did not write, such as run.toml; give another"):
        ask()
    (tmp_path / "out/run.toml").unlink()
    (tmp_path / "out/probe.json").write_text('{"kind": "evaluation"}')
    with pytest.raises(AlitokError, match="was not written by `alitok probe`"):
        ask()
