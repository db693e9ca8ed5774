"""A generator trained on stored codes, away from the images."""

import json
import shutil

import pytest
import torch

from alitok.core.errors import AlitokError
from alitok.generator import Generator
from alitok.run.encode import run_encode
from alitok.run.fit import run_fit
from alitok.run.options import EncodeOptions, FitOptions, TrainOptions
from alitok.run.resolve import resolve
from alitok.run.train import run_training
from alitok.sampling.pipeline import Pipeline
from alitok.tokenizer import Tokenizer

GENERATOR = (
    "generator_size.layers=1",
    "generator.phases.main.steps=8",
    "generator.phases.main.warmup_steps=4",
    "generator.loop.checkpoint_every=4",
)
SMALL = (
    *GENERATOR,
    *(f"tokenizer.{part}.layers=1" for part in ("encoder", "stage1", "stage2")),
    *(f"{stage}.phases.main.{key}" for stage in ("stage1", "stage2") for key in ("steps=6", "warmup_steps=3")),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that had the images, and stores of its tokenizer's codes."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("whole")
    for stage in ("stage1", "stage2", "generator"):
        run_training(stage, TrainOptions(out=root / "run", data="digits", device="cpu", overrides=SMALL))
    for split in ("train", "val"):
        run_encode(
            EncodeOptions(tokenizer=root / "run" / "model", data="digits", out=root / split, split=split, device="cpu")
        )
    return root


def options(root, out, **changes):
    stores = {"codes": root / "train", "val_codes": root / "val"}
    return TrainOptions(
        **{"out": out, "device": "cpu", "preset": "digits", "overrides": GENERATOR, **stores, **changes}
    )


def weights(path):
    return Generator.from_pretrained(path / "model").state_dict()


def test_it_ends_with_the_generator_of_a_run_that_had_the_images(whole, tmp_path):
    run_training("generator", options(whole, tmp_path / "run"))
    mine, theirs = weights(tmp_path / "run"), weights(whole / "run")
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert len(Pipeline.from_pretrained(tmp_path / "run" / "model", device="cpu")(["3"])) == 1
    assert list((tmp_path / "run" / "generator" / "images").iterdir())
    # The same command, or a shorter one, finds everything done.
    (tmp_path / "run" / "model" / "pipeline.json").unlink()
    run_training("generator", TrainOptions(out=tmp_path / "run", device="cpu"))
    assert (tmp_path / "run" / "model" / "pipeline.json").exists()


def test_a_tokenizer_of_stage_1_alone_makes_a_pair_too(whole, tmp_path):
    alone = whole / "run" / "stage1" / "tokenizer"
    run_training("generator", options(whole, tmp_path / "run", tokenizer=alone))
    assert not (tmp_path / "run" / "model" / "tokenizer" / "stage2.safetensors").exists()
    assert len(Pipeline.from_pretrained(tmp_path / "run" / "model", device="cpu")(["3"])) == 1


def test_a_store_that_has_moved_is_still_the_same_one(whole, tmp_path):
    run_training("generator", options(whole, tmp_path / "run"))
    for name in ("train", "val"):
        shutil.copytree(whole / name, tmp_path / "moved" / name)
    run_training("generator", options(tmp_path / "moved", tmp_path / "run", preset=None))
    assert (tmp_path / "run" / "codes" / "train").resolve() == (tmp_path / "moved" / "train").resolve()


def test_the_recipe_takes_its_tokenizer_from_the_codes(whole, tmp_path):
    found = resolve(options(whole, tmp_path, preset="alitok-256", overrides=()))
    shape = Tokenizer.from_pretrained(whole / "run" / "model").config
    assert found.recipe.tokenizer == shape
    assert found.recipe.generator_size.layers == 24
    assert resolve(options(whole, tmp_path, preset="small", overrides=())).recipe.crops == "ten"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"val_codes": None}, "--codes needs --val-codes"),
        ({"codes": None}, "go with --codes"),
        ({"data": "digits"}, "takes the place of --data"),
        ({"val_codes": "train"}, "hold images in common"),
        ({"codes": "nowhere"}, "There are no codes at"),
    ],
)
def test_what_does_not_belong_together_is_refused(whole, tmp_path, changes, said):
    changes = {name: whole / value if "codes" in name and value else value for name, value in changes.items()}
    with pytest.raises(AlitokError, match=said):
        run_training("generator", options(whole, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_codes_of_another_tokenizer_and_other_trainings_are_refused(whole, tmp_path):
    with pytest.raises(AlitokError, match="trained on images"):
        run_training("stage1", options(whole, tmp_path / "run"))
    for path in (whole / "val", whole / "train"):
        shutil.copytree(path, tmp_path / path.name)
    manifest = tmp_path / "val" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text())).replace('"tokenizer": "', '"tokenizer": "f'))
    with pytest.raises(AlitokError, match="another tokenizer"):
        run_training("generator", options(tmp_path, tmp_path / "run"))
    run_training("generator", options(whole, tmp_path / "run"))
    with pytest.raises(AlitokError, match="trained on codes alone"):
        run_fit("digits", FitOptions(out=tmp_path / "run", device="cpu"), command="alitok fit")
