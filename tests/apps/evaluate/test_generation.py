"""Samples against a reference: from a model, a folder and an npz file, and what is rejected."""

import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import alitok.apps.evaluate.generation as workflow
from alitok.apps.evaluate.generation import run_eval_generation
from alitok.apps.evaluate.job import Work
from alitok.apps.evaluate.options import GenerationOptions
from alitok.apps.evaluate.reference import open_reference
from alitok.apps.sample.job import run_sample
from alitok.apps.sample.options import SampleOptions
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.generator import Generator, GeneratorConfig
from alitok.metrics.inception import OFFICIAL
from alitok.sampling import SamplingConfig, SamplingOverrides
from alitok.sampling.pipeline import Pipeline

GENERATOR = GeneratorConfig(grid=4, prefix=4, codebook_size=40, classes=3, layers=1, width=16, heads=2)
COUNT = 60
RANDOM = np.random.default_rng(1).standard_normal((50, 6))  # features


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer):
    small = tokenizer(stage2=False)
    generator = Generator(GENERATOR, ("ant", "bee", "cow")).eval()
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    path = tmp_path_factory.mktemp("pair") / "model"
    Pipeline(small, generator, SamplingConfig(guidance_scale=2.0)).save_pretrained(path)
    return path


@pytest.fixture
def ask(tmp_path, model, folder, extractor):
    """Runs an evaluation with these options; returns the numbers and what stands in the file."""

    def run(evaluated=str(model), **changes):
        options = GenerationOptions(
            out=tmp_path / "out", reference=str(folder), num=COUNT, seed=5, batch_size=16, device="cpu"
        )
        options = replace(options, **changes)
        found = run_eval_generation(evaluated, options)
        return found, json.loads((options.out / "evaluation.json").read_text())

    return run


@pytest.fixture
def samples(model):
    """The model's samples, (N, 3, 16, 16) uint8, straight from the pipeline."""

    def generate(count=COUNT, **settings):
        pipeline = Pipeline.from_pretrained(model, device="cpu")
        labels = [number % 3 for number in range(count)]
        images = pipeline(labels, seed=5, sampling=SamplingOverrides(**settings).apply_to(pipeline.sampling))
        return np.stack([np.asarray(image).transpose(2, 0, 1) for image in images])

    return generate


def test_metrics_of_a_models_samples_are_those_of_all_images_at_once(
    ask, folder, cropped, samples, features, frechet, tmp_path, extractor, capsys
):
    found, written = ask()
    real, made = cropped(folder), samples()
    wanted = frechet(features(real), features(made))
    assert found["frechet_distance"] == pytest.approx(wanted, rel=1e-6)
    assert written["metrics"] == found
    spatial = frechet(features(real, "spatial"), features(made, "spatial"))
    assert found["spatial_frechet_distance"] == pytest.approx(spatial, rel=1e-6)
    assert {"precision", "recall", "density", "coverage", "kernel_distance"} < set(found)
    assert not {"gfid", "sfid", "kid", "inception_score", "accuracy"} & set(found)
    low, high = written["interval"]
    assert low < found["frechet_distance"] < high
    protocol = written["protocol"]
    assert protocol["guidance_scale"] == 2.0
    assert (protocol["seed"], protocol["count"], protocol["per class"]) == (5, COUNT, COUNT / 3)
    assert {"alitok", "torch", "command", "model", "feature weights"} < set(protocol)
    assert written["reference"]["images"] == 60
    assert any("not FID" in warning for warning in written["warnings"])
    printed = capsys.readouterr().out
    assert "distance of sums" in printed
    assert "report.html" in printed
    page = (tmp_path / "out" / "report.html").read_text()
    assert "distance of sums" in page
    assert "ant" in page

    shown = extractor.shown
    again, _ = ask()
    assert again == found
    assert extractor.shown == shown, "nothing is computed twice"


def test_two_processes_find_what_one_finds(ask, tmp_path, together):
    alone, _ = ask(out=tmp_path / "alone")

    def work(world):
        workflow.join = lambda device: contextlib.nullcontext(world)  # this process is a fork and ends
        return ask(out=tmp_path / "two")[0]

    first, second = together(work)
    assert first == second == pytest.approx(alone, rel=1e-9)
    written = json.loads((tmp_path / "two" / "evaluation.json").read_text())
    assert written["protocol"]["processes"] == 2


def test_the_same_samples_from_files_give_the_same_numbers(ask, model, tmp_path, folder, cropped):
    found, _ = ask()
    nothing = {"num": None, "batch_size": None}
    for name in ("folder", "samples.npz"):
        run_sample(str(model), SampleOptions(out=tmp_path / name, num=COUNT, seed=5, batch_size=16, device="cpu"))
        same, written = ask(str(tmp_path / name), out=tmp_path / f"of {name}", **nothing)
        assert same == pytest.approx(found, rel=1e-5)
        assert written["protocol"]["count"] == COUNT
    # In folders the samples stand class by class; every part of the job should hold all classes.
    labels = np.concatenate([np.load(path)["labels"] for path in sorted((tmp_path / "of folder/features").iterdir())])
    assert len(np.unique(labels[:16])) == 3
    # ... and the reference may be an npz file of images as well.
    archive = tmp_path / "real.npz"
    np.savez(archive, arr_0=cropped(folder).transpose(0, 2, 3, 1))
    same, _ = ask(reference=str(archive), out=tmp_path / "of archive")
    del same["kernel_distance"], found["kernel_distance"]  # of random subsets, and the order is another
    assert same == pytest.approx(found, rel=1e-5)


def test_an_interrupted_evaluation_resumes_without_sampling_again(
    ask, use, extractor, projections, statistics, tmp_path
):
    whole, _ = ask(out=tmp_path / "whole")
    drawn = []

    class Stops(projections):
        def __call__(self, images):
            if drawn:
                raise KeyboardInterrupt
            drawn.append(len(images))
            return super().__call__(images)

    ask(out=tmp_path / "out", num=3)  # the reference is there
    (tmp_path / "out" / "evaluation.json").unlink()
    use(Stops())
    with pytest.raises(KeyboardInterrupt):
        ask(fresh=False, out=tmp_path / "broken", reference=statistics(RANDOM))
    use(extractor)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "broken" / "features").iterdir()}
    assert sorted(before) == ["block-00000.npz"]
    found, _ = ask(out=tmp_path / "broken", reference=statistics(RANDOM))
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "broken" / "features").iterdir()}
    assert len(after) == 4
    assert after["block-00000.npz"] == before["block-00000.npz"]
    other, _ = ask(out=tmp_path / "other", reference=statistics(RANDOM))
    assert found == other
    assert found["frechet_distance"] != whole["frechet_distance"]


def test_statistics_in_a_file_are_used_as_they_are(ask, samples, statistics, features, frechet):
    found, written = ask(reference=statistics(RANDOM))
    assert found["frechet_distance"] == pytest.approx(frechet(RANDOM, features(samples())), rel=1e-5)
    assert "precision" not in found, "there are no features to compare with"
    assert len(written["reference"]["sha256"]) == 64


def test_another_reference_needs_no_new_samples(ask, extractor, folder, cropped, tmp_path):
    first, _ = ask()
    shown = extractor.shown
    archive = tmp_path / "some.npz"
    np.savez(archive, arr_0=cropped(folder)[:30].transpose(0, 2, 3, 1))
    second, written = ask(reference=str(archive))
    assert extractor.shown == shown + 30
    assert second["frechet_distance"] != first["frechet_distance"]
    assert written["reference"]["images"] == 30
    assert ask()[0] == first
    assert extractor.shown == shown + 30


def test_adms_statistics_are_used_as_they_are(tmp_path, folder, cropped, features, projections):
    class Official(projections):
        name, distance = OFFICIAL, "FID"

    random = np.random.default_rng(0)
    mu, sigma = random.random(2048), np.diag(random.random(2048))
    mu_s, sigma_s = random.random(2023), np.diag(random.random(2023))
    images = cropped(folder).transpose(0, 2, 3, 1)
    np.savez(tmp_path / "adm.npz", arr_0=images, mu=mu, sigma=sigma, mu_s=mu_s, sigma_s=sigma_s)
    work = Work(Official(), World(torch.device("cpu")), Console(quiet=True), tmp_path / "out", False)
    found = open_reference(str(tmp_path / "adm.npz"), "generation", work, 16)
    assert np.array_equal(found.target.pool.mean.numpy(), mu)
    assert np.array_equal(found.target.pool.covariance.numpy(), sigma)
    assert np.array_equal(found.target.spatial.mean.numpy(), mu_s)
    np.testing.assert_allclose(found.target.features, features(cropped(folder)), rtol=1e-5, atol=1e-6)
    assert found.about["adm"] is True


def test_a_sweep_tries_all_combinations_and_the_best_is_confirmed(
    ask, samples, folder, cropped, features, frechet, tmp_path
):
    found, written = ask(sweep="scale,power", scales=(1.0, 3.0), powers=(0.5, 2.0), sweep_num=12)
    tried = {(p["settings"]["guidance_scale"], p["settings"]["guidance_power"]): p for p in written["sweep"]}
    assert set(tried) == {(1.0, 0.5), (1.0, 2.0), (3.0, 0.5), (3.0, 2.0)}
    target = features(cropped(folder))
    for (scale, power), point in tried.items():
        drawn = samples(12, guidance_scale=scale, guidance_power=power)
        assert point["distance"] == pytest.approx(frechet(target, features(drawn)), rel=1e-6)
        assert point["count"] == 12
    best = min(tried, key=lambda key: tried[key]["distance"])
    assert (written["protocol"]["guidance_scale"], written["protocol"]["guidance_power"]) == best
    drawn = samples(guidance_scale=best[0], guidance_power=best[1])
    assert found["frechet_distance"] == pytest.approx(frechet(target, features(drawn)), rel=1e-6)
    # Without values, five around the model's own.
    _, written = ask(sweep="scale", sweep_num=6, out=tmp_path / "five")
    assert [point["settings"]["guidance_scale"] for point in written["sweep"]] == [1.0, 1.5, 2.0, 2.5, 3.0]


def test_accuracy_is_the_fraction_of_samples_that_the_classifier_assigns_to_their_class(
    ask, use_classifier, samples, features, folder, tmp_path
):
    use_classifier("cow", "dog", "ant")
    found, written = ask(reference=None, data=str(folder), features="classifier")
    names = np.array(["cow", "dog", "ant"])[features(samples(), "probabilities").argmax(1)]
    asked = np.array(["ant", "bee", "cow"])[np.arange(COUNT) % 3]
    assert found["accuracy"] == pytest.approx((names == asked).mean())
    assert written["protocol"]["classifier val accuracy"] == 0.75
    assert written["reference"]["split"] == "train"
    assert "Nearest training images" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": None}, "nothing to compare with; give --reference, or --data"),
        ({"reference": "none.npz"}, r"none\.npz does not exist"),
        ({"reference": "reconstruction"}, "is a reference for reconstruction .* not for generation"),
        ({"reference": "network"}, "features of the network 'other', not 'projections'"),
        ({"reference": "resolution"}, "of 32 px images, not 16"),
        ({"reference": "large"}, "images of 32 px, not 16 px"),
        ({"reference": "adm"}, "statistics of the official Inception's features, not of 'projections'"),
        ({"reference": "texts"}, "texts"),
        ({"evaluated": "grey.npz", "num": None, "batch_size": None}, "grayscale images"),
        ({"evaluated": "sizes", "num": None, "batch_size": None}, "has 16 x 16 pixels, not 20 x 20"),
        ({"evaluated": "texts", "num": None, "batch_size": None}, "texts"),
        (
            {"evaluated": "large.npz", "batch_size": None},
            "not a saved model, and finished images are evaluated as they are",
        ),
        ({"evaluated": "large.npz", "num": None, "batch_size": None, "sweep": "scale"}, "so it needs a model"),
        ({"evaluated": "shards/*.tar", "num": None, "batch_size": None}, r"shards/\*\.tar"),
        ({"evaluated": "digits", "num": None, "batch_size": None}, "real images, not samples"),
        ({"sampling": SamplingOverrides(top_p=2.0)}, "top_p must be within"),
        ({"num": 0}, "--num must be at least 1"),
    ],
)
def test_what_cannot_be_evaluated_is_rejected_before_sampling(ask, tmp_path, extractor, statistics, changes, message):
    np.savez(tmp_path / "large.npz", arr_0=np.zeros((9, 32, 32, 3), np.uint8))
    np.savez(tmp_path / "grey.npz", arr_0=np.zeros((9, 16, 16), np.uint8))
    np.savez(
        tmp_path / "adm.npz",
        arr_0=np.zeros((9, 16, 16, 3), np.uint8),
        mu=np.zeros(2048),
        sigma=np.eye(2048),
    )
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no image")
    (tmp_path / "sizes").mkdir()
    for number, side in enumerate((20, 16)):
        Image.new("RGB", (side, side)).save(tmp_path / "sizes" / f"{number}.png")
    made = {
        "reconstruction": statistics(RANDOM, kind="reconstruction"),
        "network": statistics(RANDOM, network="other"),
        "resolution": statistics(RANDOM, resolution=32),
        "large": str(tmp_path / "large.npz"),
        "adm": str(tmp_path / "adm.npz"),
    }
    for name in ("reference", "evaluated"):
        value = changes.get(name)
        if value in made:
            changes = {**changes, name: made[value]}
        elif value and value != "digits":
            changes = {**changes, name: str(tmp_path / value)}
    with pytest.raises(AlitokError, match=message):
        ask(**changes)
    assert extractor.shown == 0


def test_another_job_or_foreign_files_are_rejected(ask, statistics, tmp_path):
    ask(reference=statistics(RANDOM))
    with pytest.raises(AlitokError, match=r"seed \(5, now 6\); .* start over with --fresh"):
        ask(reference=statistics(RANDOM), seed=6)
    _, written = ask(reference=statistics(RANDOM), seed=6, fresh=True)
    assert written["protocol"]["seed"] == 6
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(AlitokError, match="is not empty and is not an alitok evaluation directory"):
        ask(reference=statistics(RANDOM), out=tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
