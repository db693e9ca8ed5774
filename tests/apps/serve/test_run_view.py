"""The training run that the page shows: curves and images, and no other file."""

import json
import os

import pytest

from alitok.apps.serve.run_view import RunView
from alitok.core.errors import AlitokError


@pytest.fixture
def run(tmp_path, make_image):
    root = tmp_path / "run"
    for stage in ("stage1", "generator", "other"):
        (root / stage / "images").mkdir(parents=True)
        (root / stage / "images" / "samples-000100.png").write_bytes(make_image())
    records = [{"step": step, "loss": 1 / step, "lr": 1e-4} for step in range(1, 2501)]
    records[3]["loss"] = float("nan")
    text = "".join(json.dumps(record) + "\n" for record in records)
    (root / "stage1" / "metrics.jsonl").write_text(text + '{"step": 25')
    (root / "stage1" / "images" / "re-construction-000050.png").write_bytes(b"first")
    (root / "stage1" / "images" / "notes.txt").write_text("secret")
    (root / "stage1" / "images" / "no-12.png").write_text("secret")
    (tmp_path / "secret-000001.png").write_text("secret")
    (root / "run.toml").write_text("secret")
    return root


def test_curves_and_images_by_stage(run):
    stages = RunView(run).describe()["stages"]
    assert list(stages) == ["stage1", "generator"]
    curves = stages["stage1"]["curves"]
    assert set(curves) == {"loss", "lr"}
    assert len(curves["lr"]) <= 1000
    assert curves["lr"][-1] == (2500, 1e-4)
    assert all(value == pytest.approx(1 / step) for step, value in curves["loss"])
    assert stages["stage1"]["images"] == [
        {"step": 50, "name": "re-construction", "url": "/v1/run/images/stage1/re-construction-000050.png"},
        {"step": 100, "name": "samples", "url": "/v1/run/images/stage1/samples-000100.png"},
    ]
    assert stages["generator"]["curves"] == {}


def test_a_growing_log_is_read_again(run):
    view = RunView(run)
    before = view.describe()["stages"]["stage1"]["curves"]["lr"]
    (run / "generator" / "metrics.jsonl").write_text('{"step": 1, "loss": 2}\n')
    assert view.describe()["stages"]["generator"]["curves"] == {"loss": [(1, 2)]}
    (run / "generator" / "metrics.jsonl").write_text('{"step": 1, "loss": 2}\n{"step": 2, "loss": 1}\n')
    assert view.describe()["stages"]["generator"]["curves"] == {"loss": [(1, 2), (2, 1)]}
    assert view.describe()["stages"]["stage1"]["curves"]["lr"] is before


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("stage1", "notes.txt"),
        ("stage1", "no-12.png"),
        ("stage1", "../metrics.jsonl"),
        ("stage1", "../../../secret-000001.png"),
        ("stage1", "..\\secret-000001.png"),
        ("stage1", "samples-000101.png"),
        ("stage1", "samples-000100.png\0"),
        ("stage1", "samples-000100.png\n"),
        ("..", "secret-000001.png"),
        (".", "samples-000100.png"),
        ("other", "samples-000100.png"),
        ("", "run.toml"),
    ],
)
def test_no_other_file_is_exposed(run, stage, name):
    assert RunView(run).image(stage, name) is None


def test_links_are_not_followed(run, tmp_path):
    images = run / "stage1" / "images"
    (images / "link-000001.png").symlink_to(tmp_path / "secret-000001.png")
    (run / "stage2").symlink_to(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a-000001.png").write_text("secret")
    os.mkfifo(images / "pipe-000001.png")
    view = RunView(run)
    assert view.image("stage1", "link-000001.png") is None
    assert view.image("stage1", "pipe-000001.png") is None
    assert view.image("stage2", "a-000001.png") is None
    stages = view.describe()["stages"]
    assert list(stages) == ["stage1", "generator"]
    assert "link" not in {image["name"] for image in stages["stage1"]["images"]}


def test_a_binary_log_has_no_curves(run):
    (run / "stage1" / "metrics.jsonl").write_bytes(b"\xff\xfe\x00")
    assert RunView(run).describe()["stages"]["stage1"]["curves"] == {}


def test_a_missing_run(tmp_path):
    with pytest.raises(AlitokError, match="is not a run directory"):
        RunView(tmp_path / "none")


def test_over_http(pipeline, make_service, run, make_image, http):
    missing = http.get("/v1/run")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert http.get("/v1/run/images/stage1/samples-000100.png").status_code == 404
    with make_service(pipeline, run=run) as running, running.client() as shown:
        assert shown.get("/v1/models").json()["models"][0]["run"] is True
        stages = shown.get("/v1/run").json()["stages"]
        image = stages["stage1"]["images"][1]
        answer = shown.get(image["url"])
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        assert answer.content == make_image()
        for name in ("..%2f..%2frun.toml", "%2e%2e/%2e%2e/run.toml", "notes.txt"):
            answer = shown.get(f"/v1/run/images/stage1/{name}")
            assert answer.status_code == 404
            assert "secret" not in answer.text
