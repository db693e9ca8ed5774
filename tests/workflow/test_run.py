"""The steps of a run that several processes do at the same time in one directory."""

import pytest

from alitok.core.files import read_json
from alitok.workflow.resolve import Request
from alitok.workflow.run import Run
from alitok.workflow.train import run_training

TINY = (
    "tokenizer.encoder.layers=1",
    "tokenizer.stage1.layers=1",
    "tokenizer.stage2.layers=1",
    "generator_size.layers=1",
    *(
        f"{stage}.phases.main.{key}"
        for stage in ("stage1", "stage2", "generator")
        for key in ("steps=2", "warmup_steps=1")
    ),
)


@pytest.mark.parametrize("later", [("sampling.guidance_scale=7", "sampling.guidance_power=1.25"), ()])
def test_the_pair_is_sampled_as_the_run_says_when_its_last_half_is_done(tmp_path, monkeypatch, later):
    run_training("stage1", Request(out=tmp_path, data="digits", device="cpu", overrides=TINY))
    stage2 = Run.stage2

    def beside(run):
        """The generator is begun with other settings and ended while stage 2 is trained."""
        run_training("generator", Request(out=tmp_path, device="cpu", overrides=later))
        return stage2(run)

    monkeypatch.setattr(Run, "stage2", beside)
    run_training("stage2", Request(out=tmp_path, device="cpu"))
    sampling = read_json(tmp_path / "model" / "pipeline.json")["sampling"]
    wanted = (7.0, 1.25) if later else (3.0, 0.5)
    assert (sampling["guidance_scale"], sampling["guidance_power"]) == wanted
    assert (tmp_path / "done" / "pair.json").exists()
