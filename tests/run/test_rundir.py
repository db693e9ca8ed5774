import io
import threading
import time

import pytest
import torch
from rich.console import Console

from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.run.rundir import RunDir, finished_report

ALONE = World(torch.device("cpu"))


def run_dir(root, fresh=False, on_change=None, **settings):
    console = Console(file=io.StringIO(), width=200)
    all_settings = {"data": "digits", "recipe": {"steps": 3}, **settings}
    return RunDir(root, all_settings, fresh=fresh, console=console, world=ALONE, on_change=on_change)


def test_a_step_is_done_once_and_its_report_is_kept(tmp_path):
    calls = []

    def work():
        calls.append(1)
        return {"images": 5}

    first = run_dir(tmp_path / "run").step("encode", "Encoding", work)
    again = run_dir(tmp_path / "run").step("encode", "Encoding", work)
    assert len(calls) == 1
    assert first == again
    assert (first["images"], first["seconds"] >= 0) == (5, True)


def test_a_step_is_done_again_when_its_product_is_gone_or_its_marker_damaged(tmp_path):
    calls = []

    def work():
        calls.append(1)
        (tmp_path / "run" / "report.html").write_text("x")
        return {"earlier_seconds": 100.0}

    for _ in range(2):
        report = run_dir(tmp_path / "run").step("report", "Report", work, ["report.html"])
    assert len(calls) == 1
    assert 100 <= report["seconds"] < 110
    (tmp_path / "run" / "report.html").unlink()
    run_dir(tmp_path / "run").step("report", "Report", work, ["report.html"])
    assert len(calls) == 2
    for times, damaged in enumerate(("{}", "[]", '{"seconds": 1'), start=3):
        (tmp_path / "run" / "done" / "report.json").write_text(damaged)
        assert finished_report(tmp_path / "run", "report", ["report.html"]) is None
        run_dir(tmp_path / "run").step("report", "Report", work, ["report.html"])
        assert len(calls) == times


def test_fresh_starts_over_and_deletes_only_what_a_run_writes(tmp_path):
    run_dir(tmp_path / "run").step("a", "A", dict)
    (tmp_path / "run" / "model").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    assert run_dir(tmp_path / "link", fresh=True, data="photos").finished("a") is None
    assert not (tmp_path / "run" / "model").exists()
    assert (tmp_path / "run" / "notes.txt").exists()


def test_outdated_results_are_set_aside_and_the_new_settings_stored(tmp_path):
    root = tmp_path / "run"
    run_dir(root).step("a", "A", dict)
    (root / "model").mkdir()
    (root / "model" / "weights").write_text("years of work")
    seen = []

    def on_change(changed):
        seen.append(changed)
        return ["model", "done/a.json", "absent"]

    place = run_dir(root, on_change=on_change, recipe={"steps": 4})
    assert seen == [["recipe.steps"]]
    assert place.finished("a") is None
    assert (root / "replaced" / "1" / "model" / "weights").read_text() == "years of work"
    assert (root / "replaced" / "1" / "done" / "a.json").exists()
    run_dir(root, on_change=on_change, recipe={"steps": 4})
    assert len(seen) == 1
    (root / "model").mkdir()
    run_dir(root, on_change=on_change, recipe={"steps": 5})
    assert (root / "replaced" / "2" / "model").exists()


def test_a_start_killed_while_setting_aside_finds_the_same_changes_again(tmp_path, monkeypatch):
    root = tmp_path / "run"
    run_dir(root)
    for name in ("model", "report"):
        (root / name).mkdir()

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("alitok.core.jobdir.write_bytes", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_dir(root, on_change=lambda _: ["model", "report"], recipe={"steps": 4})
    monkeypatch.undo()
    run_dir(root, on_change=lambda _: ["model", "report"], recipe={"steps": 4})
    assert not (root / "model").exists()
    assert not (root / "report").exists()


def test_two_processes_do_not_take_the_same_step(tmp_path, monkeypatch):
    monkeypatch.setattr("alitok.core.jobdir._TIMEOUT", 0.1)
    first, second = run_dir(tmp_path / "run"), run_dir(tmp_path / "run")
    calls = []

    def other():
        with pytest.raises(AlitokError, match=r"Another process is at work in .*run \(encode\)"):
            second.step("encode", "Encoding", lambda: calls.append("second") or {})
        second.step("generator", "Generator", lambda: calls.append("generator") or {})
        return {}

    first.step("encode", "Encoding", other)
    assert calls == ["generator"]
    assert second.step("encode", "Encoding", lambda: calls.append("again") or {})["seconds"] >= 0
    assert calls == ["generator"]


def test_a_step_that_another_run_has_just_finished_is_not_done_again(tmp_path):
    first, second = run_dir(tmp_path / "run"), run_dir(tmp_path / "run")
    began, calls = threading.Event(), []

    def slow():
        began.set()
        time.sleep(1.0)
        calls.append("first")
        return {"images": 5}

    thread = threading.Thread(target=lambda: first.step("encode", "Encoding", slow))
    thread.start()
    assert began.wait(60)
    assert second.step("encode", "Encoding", lambda: calls.append("second") or {})["images"] == 5
    thread.join(60)
    assert calls == ["first"]


@pytest.mark.parametrize("change", [{"fresh": True}, {"recipe": {"steps": 4}, "on_change": lambda changed: ["model"]}])
def test_nothing_is_deleted_or_moved_under_a_run_that_is_at_work(tmp_path, monkeypatch, change):
    monkeypatch.setattr("alitok.core.jobdir._TIMEOUT", 0.1)

    def other():
        (tmp_path / "run" / "model").mkdir()
        with pytest.raises(AlitokError, match=r"Another process is at work in .*run \(encode\)"):
            run_dir(tmp_path / "run", **change)
        assert (tmp_path / "run" / "model").is_dir()
        return {}

    run_dir(tmp_path / "run").step("encode", "Encoding", other)
    run_dir(tmp_path / "run", **change)
    assert not (tmp_path / "run" / "model").exists()


def test_a_step_that_failed_is_not_marked_and_can_be_taken_again(tmp_path, monkeypatch):
    monkeypatch.setattr("alitok.core.jobdir._TIMEOUT", 0.1)
    place = run_dir(tmp_path / "run")
    with pytest.raises(ZeroDivisionError):
        place.step("encode", "Encoding", lambda: {"a": 1 / 0})
    assert place.finished("encode") is None
    assert run_dir(tmp_path / "run").step("encode", "Encoding", lambda: {"a": 1})["a"] == 1
