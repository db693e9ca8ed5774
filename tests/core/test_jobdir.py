import os
from dataclasses import replace

import pytest
import torch

from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.core.jobdir import JobDir

ALONE = World(torch.device("cpu"))


@pytest.fixture(params=["probe.json", "probe.toml"])
def job(request, tmp_path):
    outputs = ("maps.npz", "features", "blocks/part-*.npy")
    marker = {"kind": "probe"}
    return JobDir(tmp_path / "out", request.param, "probe", outputs, marker=marker, decided=("block",))


def write(job, *names):
    for name in names:
        (job.root / name).parent.mkdir(parents=True, exist_ok=True)
        (job.root / name).write_text("hours of work")


def test_a_new_job_stores_its_settings_and_a_second_start_resumes_it(job):
    assert job.read() is None
    settings = {"data": "digits", "sizes": (1, 2), "nested": {"seed": 0}, "block": 8}
    stored = job.begin(settings, ALONE)
    assert stored == {"kind": "probe", **settings, "sizes": [1, 2]}
    assert job.begin({**settings, "block": 16}, ALONE) == stored  # the first start decides
    assert job.read() == stored


def test_other_settings_are_rejected_by_name_and_nothing_is_touched(job):
    job.begin({"data": "digits", "nested": {"seed": 0}, "only": 1, "long": "x" * 100}, ALONE)
    write(job, "maps.npz")
    with pytest.raises(AlitokError) as caught:
        job.begin({"data": "photos", "nested": {"seed": 1}, "long": "y" * 100}, ALONE)
    listed = "data (digits, now photos), long, nested.seed (0, now 1), only (1, now unset)"
    assert f"conflicting settings: {listed}; choose another directory" in str(caught.value)
    assert "--fresh" in str(caught.value)
    assert (job.root / "maps.npz").exists()


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("other", ["thesis.txt", "probe.json", "probe.toml"])
def test_a_directory_with_foreign_files_is_never_used_or_emptied(job, fresh, other):
    write(job, "thesis.txt")
    (job.root / other).write_text("[]" if other.endswith("json") else "years = 1")
    with pytest.raises(AlitokError, match=r"is not an alitok probe directory|was not written by alitok probe"):
        job.begin({"data": "digits"}, ALONE, fresh=fresh)
    assert (job.root / "thesis.txt").exists()


def test_a_file_in_place_of_the_directory_is_rejected(job):
    job.root.write_text("x")
    with pytest.raises(AlitokError, match="is a file"):
        job.begin({}, ALONE)


def test_changed_images_are_explained(job):
    job.begin({"data": "digits", "contents": "a"}, ALONE)
    with pytest.raises(AlitokError, match=r"settings: contents \(images were added, removed, relabelled or changed\);"):
        job.begin({"data": "digits", "contents": "b"}, ALONE)
    with pytest.raises(AlitokError, match=r"settings: data \(digits, now photos\);"):  # which explains the contents
        job.begin({"data": "photos", "contents": "b"}, ALONE)


def test_hidden_and_allowed_names_may_exist_before(tmp_path):
    job = JobDir(tmp_path, "job.json", "eval", allowed=("reference",))
    write(job, ".DS_Store", "reference/job.json")
    assert job.read() is None


def test_fresh_deletes_only_what_the_job_wrote(job):
    job.begin({"data": "digits"}, ALONE)
    write(job, "maps.npz", "features/a", "blocks/part-0.npy", ".maps.npz.host-1.part", "notes.txt", "blocks2/x")
    job.begin({"data": "photos"}, ALONE, fresh=True)
    assert sorted(path.name for path in job.root.iterdir()) == ["blocks2", "notes.txt", job.file]
    assert job.read()["data"] == "photos"


def test_discarding_leaves_no_empty_directory(job):
    job.begin({"data": "digits"}, ALONE)
    write(job, "blocks/part-0.npy", "extra.png")
    with job.lock(ALONE):
        pass
    replace(job, outputs=(*job.outputs, "extra.png")).discard()
    assert not job.root.exists()


def test_a_shared_directory_keeps_the_files_of_others(tmp_path):
    job = JobDir(tmp_path, "x.sample.json", "sample", outputs=("x.npz", "x.parts"), shared=True)
    write(job, "other.npz")
    job.begin({}, ALONE)
    write(job, "x.npz", "x.parts/0")
    job.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["other.npz"]
    write(job, "x.npz")
    with pytest.raises(AlitokError, match=r"x\.npz exists and was not"):
        job.begin({}, ALONE, fresh=True)


def test_of_two_that_begin_at_once_the_first_decides(job, monkeypatch):
    link = os.link

    def other_first(source, target):
        monkeypatch.setattr(os, "link", link)
        target.write_bytes(job._encode({"data": "digits", "block": 1}))
        link(source, target)

    monkeypatch.setattr(os, "link", other_first)
    assert job.begin({"data": "digits", "block": 2}, ALONE)["block"] == 1


def test_a_start_over_that_is_killed_leaves_what_is_recognized_as_the_job(job, monkeypatch):
    job.begin({"data": "digits"}, ALONE)
    write(job, "maps.npz", "notes.txt")
    monkeypatch.setattr("alitok.core.jobdir.write_bytes", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        job.begin({"data": "photos"}, ALONE, fresh=True)
    monkeypatch.undo()
    assert job.begin({"data": "photos"}, ALONE, fresh=True)["data"] == "photos"


def test_a_lock_keeps_others_out_and_nothing_is_deleted_under_it(job):
    job.begin({}, ALONE)
    with job.lock(ALONE, "encode"):
        write(job, "maps.npz")
        busy = pytest.raises(AlitokError, match=r"Another process is at work in .*out \(encode\)")
        with busy, job.lock(ALONE, "encode", timeout=0.1):
            pytest.fail("two hold it")
        with job.lock(ALONE, "generator", timeout=0.1):
            pass
        with pytest.raises(AlitokError, match="Another process"):
            job.require_idle(timeout=0.1)
    job.require_idle(timeout=0.1)
    job.discard()
    assert not job.root.exists()
