import json
import math
import os
from pathlib import Path

import pytest

from alitok.core.errors import AlitokError
from alitok.core.files import atomic_path, finite, read_json, write_bytes, write_json


def test_an_error_while_writing_leaves_the_old_file_and_no_trace(tmp_path):
    path = tmp_path / "a.txt"
    write_bytes(path, b"old")

    def write_half():
        with atomic_path(path) as part:
            part.write_bytes(b"half of the new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        write_half()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_an_interrupted_directory_is_removed(tmp_path):
    def write_half():
        with atomic_path(tmp_path / "model") as part:
            part.mkdir()
            (part / "weights").write_bytes(b"x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_is_replaced_as_a_whole(tmp_path):
    for content in ("one", "two"):
        with atomic_path(tmp_path / "model") as part:
            part.mkdir()
            (part / content).write_text(content)
    assert [entry.name for entry in (tmp_path / "model").iterdir()] == ["two"]


def test_a_failed_last_rename_puts_the_old_directory_back(tmp_path, monkeypatch):
    model = tmp_path / "model"
    with atomic_path(model) as part:
        part.mkdir()
        (part / "old").write_text("x")
    replace = Path.replace

    def interrupted(self, target):
        if self.name.endswith(".part"):
            raise KeyboardInterrupt
        return replace(self, target)

    def write_new():
        with atomic_path(model) as part:
            part.mkdir()
            (part / "new").write_text("y")

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_new()
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    assert [entry.name for entry in model.iterdir()] == ["old"]


def test_leftovers_of_a_killed_process_with_the_same_number_do_no_harm(tmp_path):
    with atomic_path(tmp_path / "other") as part:
        part.mkdir()
        left = part.with_name(part.name.replace("other", "model"))
    (tmp_path / "other").rmdir()
    left.mkdir()
    with atomic_path(tmp_path / "model") as part:
        assert part == left
        part.mkdir()
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_machines_on_a_shared_disk_write_beside_one_another(tmp_path, monkeypatch):
    names = []
    for machine in ("one", "two.local"):
        monkeypatch.setattr("platform.node", lambda machine=machine: machine)
        with atomic_path(tmp_path / "model") as part:
            part.touch()
            names.append(part.name)
    assert names == [f".model.one-{os.getpid()}.part", f".model.two-local-{os.getpid()}.part"]


def test_json_round_trip_and_damage(tmp_path):
    write_json(tmp_path / "deep" / "a.json", {"b": [1, 2.5, None]})
    assert read_json(tmp_path / "deep" / "a.json") == {"b": [1, 2.5, None]}
    (tmp_path / "cut.json").write_text('{"b": [1')
    with pytest.raises(AlitokError, match="not valid JSON"):
        read_json(tmp_path / "cut.json")
    with pytest.raises(AlitokError, match="does not exist"):
        read_json(tmp_path / "none.json")


def test_what_json_has_no_number_for_becomes_null(tmp_path):
    whole = {"a": math.inf, "b": [1.5, (math.nan, "nan", True)], "c": {"d": -math.inf, "e": None, "f": 3}}
    write_json(tmp_path / "a.json", finite(whole))
    strictly = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert strictly == {"a": None, "b": [1.5, [None, "nan", True]], "c": {"d": None, "e": None, "f": 3}}
