"""The steps of a run that are done side by side in one directory, and those that are done again."""

import shutil

import pytest

from alitok.core.errors import AlitokError
from alitok.core.files import read_json
from alitok.run.options import TrainOptions
from alitok.run.run import Run
from alitok.run.train import run_training

TINY = (
    *(f"{part}.layers=1" for part in ("tokenizer.encoder", "tokenizer.stage1", "tokenizer.stage2", "generator_size")),
    *(f"{stage}.phases.main.steps=2" for stage in ("stage1", "stage2", "generator")),
    *(f"{stage}.phases.main.warmup_steps=1" for stage in ("stage1", "stage2", "generator")),
)


@pytest.mark.parametrize("later", [("sampling.guidance_scale=7", "sampling.guidance_power=1.25"), ()])
def test_the_pipeline_has_the_sampling_settings_of_the_run_when_its_last_model_ends(tmp_path, monkeypatch, later):
    run_training("stage1", TrainOptions(out=tmp_path, data="digits", device="cpu", overrides=TINY))
    stage2 = Run.stage2

    def beside(run):
        """The generator is begun with other settings and ended while stage 2 is trained."""
        run_training("generator", TrainOptions(out=tmp_path, device="cpu", overrides=later))
        return stage2(run)

    monkeypatch.setattr(Run, "stage2", beside)
    run_training("stage2", TrainOptions(out=tmp_path, device="cpu"))
    sampling = read_json(tmp_path / "model" / "pipeline.json")["sampling"]
    wanted = (7.0, 1.25) if later else (3.0, 0.5)
    assert (sampling["guidance_scale"], sampling["guidance_power"]) == wanted
    assert (tmp_path / "done" / "pipeline.json").exists()


def test_a_later_stage_resumes_without_the_preset_and_is_rejected_with_it(tmp_path):
    """As the page on clusters says of a job that comes again."""
    run_training("stage1", TrainOptions(out=tmp_path, preset="digits", data="digits", device="cpu", overrides=TINY))
    larger = (*TINY, "generator_size.layers=2")
    run_training("generator", TrainOptions(out=tmp_path, device="cpu", overrides=larger))
    with pytest.raises(AlitokError, match=r"conflicting settings: .*generator_size.layers"):
        run_training("stage2", TrainOptions(out=tmp_path, preset="digits", data="digits", device="cpu", overrides=TINY))
    run_training("stage2", TrainOptions(out=tmp_path, device="cpu"))


def test_stage2_restarts_with_other_settings_when_its_files_are_removed(tmp_path):
    """What the page of questions says to move away is enough, and stage 1 and the generator stay."""
    for stage in ("stage1", "stage2", "generator"):
        run_training(stage, TrainOptions(out=tmp_path, data="digits", device="cpu", overrides=TINY))
    other = TrainOptions(out=tmp_path, device="cpu", overrides=("stage2.phases.main.learning_rate=1e-5",))
    with pytest.raises(AlitokError, match=r"conflicting settings: recipe.stage2.phases;"):
        run_training("stage2", other)
    done = ("stage1", "encode", "generator")
    saved = {name: (tmp_path / "done" / f"{name}.json").stat().st_mtime_ns for name in done}
    shutil.rmtree(tmp_path / "stage2")
    shutil.rmtree(tmp_path / "model" / "tokenizer")
    for name in ("model/pipeline.json", "model/README.md", "done/stage2.json", "done/pipeline.json"):
        (tmp_path / name).unlink()
    run_training("stage2", other)
    assert {name: (tmp_path / "done" / f"{name}.json").stat().st_mtime_ns for name in saved} == saved
    assert (tmp_path / "done" / "pipeline.json").exists()
