import json
import math

import numpy as np
from PIL import Image

from alitok.core.runlog import RunLog, read_metrics


def test_a_resumed_log_drops_what_was_written_behind_the_checkpoint(tmp_path):
    with RunLog(tmp_path) as log:
        for step in (10, 20, 30):
            log.scalars(step, {"loss": step / 10})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 35, "lo')  # cut short by a crash
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [10, 20, 30]
    with RunLog(tmp_path, resume_step=20) as log:
        log.scalars(30, {"loss": 9.0})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [1.0, 2.0, 9.0]


def test_numbers_that_are_not_finite_are_null_in_valid_json(tmp_path):
    with (tmp_path / "metrics.jsonl").open("w") as file:
        file.write('{"step": 10, "loss": NaN}\n')  # as older logs have it
    with RunLog(tmp_path, resume_step=10) as log:
        log.scalars(20, {"loss": math.inf, "mse": 0.5})
        log.curve(20, "loss_by_position", [1.0, math.nan])
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    strict = [json.loads(line, parse_constant=refused) for line in lines]
    assert strict == [{"step": 10, "loss": None}, {"step": 20, "loss": None, "mse": 0.5}]
    curve = (tmp_path / "curves" / "loss_by_position-000020.json").read_text()
    assert json.loads(curve, parse_constant=refused)["loss_by_position"] == [1.0, None]


def refused(name):
    raise ValueError(f"{name} is no JSON")


def test_images_are_numbered_by_step(tmp_path):
    with RunLog(tmp_path) as log:
        log.image(7, "samples", np.zeros((3, 4, 5), np.uint8), scale=2)
    assert Image.open(tmp_path / "images" / "samples-000007.png").size == (10, 8)
