"""`alitok sample` as its command calls it, its files, and jobs that are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from alitok.apps.sample import job as workflow
from alitok.apps.sample.files import SamplePlace, class_folders
from alitok.apps.sample.job import run_sample
from alitok.apps.sample.options import SampleOptions
from alitok.core.errors import AlitokError
from alitok.core.files import write_json
from alitok.data.sources.opening import open_splits
from alitok.generator import Generator
from alitok.sampling import SamplingOverrides
from alitok.sampling.job import SamplingJob
from alitok.sampling.pipeline import Pipeline

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def save_model(make_pipeline):
    def save(path, seed=0):
        tokenizer = {"image_size": 16, "patch_size": 4, "codebook_size": 40, "stage2": None}
        make_pipeline(("ant", "bee", "sea cow"), seed=seed, **tokenizer).save_pretrained(path)
        return path

    return save


@pytest.fixture(scope="module")
def model(save_model, tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("pipeline") / "model")


@pytest.fixture
def ask(tmp_path, model):
    """Runs a job with these options; returns its place."""

    def run(**changes):
        where = changes.pop("model", str(model))
        options = SampleOptions(out=tmp_path / "out", num=37, seed=5, batch_size=16, device="cpu")
        options = replace(options, **changes)
        run_sample(where, options)
        return options.out

    return run


def files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def expected(model, count=37, classes=(0, 1, 2)):
    """The images (N, h, h, 3) that a pair draws for a list of classes."""
    labels = [classes[number % len(classes)] for number in range(count)]
    pipeline = Pipeline.from_pretrained(model, device="cpu")
    return np.stack([np.asarray(image) for image in pipeline(labels, seed=5)]), labels


@pytest.mark.parametrize("ending", ["png", "webp"])
def test_images_in_class_folders_that_are_a_source(ask, model, capsys, ending):
    out = ask(format=ending)
    assert "37 images in" in capsys.readouterr().out
    images, labels = expected(model)
    names = ["ant", "bee", "sea cow"]
    paths = [f"{names[label]}/{number:06d}.{ending}" for number, label in enumerate(labels)]
    assert set(files(out)) == {*paths, "sample.json"}
    for path, wanted in zip(paths, images, strict=True):
        with Image.open(out / path) as image:
            assert image.format == ending.upper()
            assert np.array_equal(np.asarray(image.convert("RGB")), wanted)
    splits = open_splits(str(out), 16)
    assert splits.train.classes == tuple(names)
    assert len(splits.train) + len(splits.val) == 37
    for index in range(len(splits.train)):
        place = paths.index(splits.train.key(index))
        assert splits.train.labels[index] == labels[place]
        assert np.array_equal(splits.train.read(index, None).transpose(1, 2, 0), images[place])


@pytest.mark.parametrize("inside", [False, True])
def test_one_archive_in_the_format_of_adm(ask, model, tmp_path, inside, capsys):
    out = tmp_path / "out" if inside else tmp_path / "all.npz"
    ask(out=out, format="npz" if inside else None, classes=("sea cow", "0"))
    archive = out / "samples.npz" if inside else out
    assert f": {archive}" in capsys.readouterr().out.replace("\n", "")
    images, labels = expected(model, classes=(2, 0))
    with np.load(archive, allow_pickle=False) as found:
        assert found.files == ["arr_0", "arr_1"]
        assert (found["arr_0"].dtype, found["arr_1"].dtype) == (np.uint8, np.int64)
        assert np.array_equal(found["arr_0"], images)
        assert found["arr_1"].tolist() == labels
    manifest = "sample.json" if inside else "all.sample.json"
    assert {path.name for path in archive.parent.iterdir()} == {archive.name, manifest}
    before = archive.read_bytes()
    ask(out=out, format="npz" if inside else None, classes=("sea cow", "0"), fresh=True, batch_size=3)
    assert archive.read_bytes() == before


def test_a_finished_job_samples_nothing(ask, capsys, monkeypatch):
    for changes in ({}, {"format": "npz", "out": ask().parent / "all.npz"}):
        out = ask(**changes)
        before = files(out.parent)
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(workflow, "pixel_precision", None)
            patch.setattr("alitok.sampling.engine.Engine.sample", None)
            ask(**changes)
        assert "All 37 images exist" in capsys.readouterr().out
        assert files(out.parent) == before


def test_only_what_is_missing_is_sampled_and_written(ask, capsys, monkeypatch):
    out = ask()
    before = files(out)
    stats = {path: path.stat() for path in out.rglob("*.png")}
    for number in (17, 20):  # of the second block of three
        (out / ["ant", "bee", "sea cow"][number % 3] / f"{number:06d}.png").unlink()
    (out / "bee" / f".{17:06d}.png.host-77.part").write_bytes(b"half")
    asked = []
    plain = workflow.sample_blocks
    monkeypatch.setattr(
        workflow, "sample_blocks", lambda *words, **names: asked.append(names["wanted"]) or plain(*words, **names)
    )
    capsys.readouterr()
    ask(batch_size=None)
    assert asked == [[1]]
    assert "16 images of 37 (the others existed) in" in capsys.readouterr().out
    assert files(out) == before
    written = {path for path, stat in stats.items() if path.stat().st_mtime_ns != stat.st_mtime_ns}
    assert {path.stem for path in written} == {"000017", "000020"}


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"batch_size": 7}, {"batch_size": 64}, {"batch_size": None}])
def test_the_batch_size_changes_no_byte(ask, tmp_path, changes):
    first, second = files(ask()), files(ask(out=tmp_path / "again", **changes))
    del first["sample.json"], second["sample.json"]
    assert first == second


def test_another_job_is_rejected_by_its_differences_and_replaced_with_fresh(ask, save_model, tmp_path):
    out = ask()
    before = files(out)
    other = save_model(tmp_path / "other", seed=1)
    for changes, said in (
        ({"seed": 6}, r"seed \(5, now 6\); choose another .* start over with --fresh"),
        ({"num": 36}, r"count \(37, now 36\)"),
        ({"classes": ("bee", "ant", "2")}, "conflicting settings: classes, folders"),
        ({"sampling": SamplingOverrides(top_k=3)}, r"sampling\.top_k \(0, now 3\)"),
        (
            {"sampling": SamplingOverrides(guidance_scale=4.0, temperature=0.5)},
            r"sampling\.guidance_scale \(2\.0, now 4\.0\), ",
        ),
        ({"precision": "bf16"}, r"precision \(fp32, now bf16\)"),
        ({"format": "webp"}, r"format \(png, now webp\)"),
        ({"model": str(other)}, r"model(;| \()"),
    ):
        with pytest.raises(AlitokError, match=said):
            ask(**changes)
    write_json(out / "sample.json", {**json.loads(before["sample.json"]), "alitok": "0.0.1"})
    with pytest.raises(AlitokError, match=r"alitok \(0\.0\.1, now "):
        ask()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "000000.png").write_bytes(b"of somebody else")
    folders = ["../elsewhere", "bee", "sea cow"]
    write_json(out / "sample.json", {**json.loads(before["sample.json"]), "folders": folders})
    with pytest.raises(AlitokError, match=r"folders holds '\.\./elsewhere', which is not a valid folder name"):
        ask(fresh=True)
    assert (tmp_path / "elsewhere" / "000000.png").exists()
    (out / "sample.json").write_bytes(before["sample.json"])
    assert files(out) == before
    (out / "ant" / "000001.png").write_bytes(b"a foreign file: image 1 is a bee")
    (out / "notes.txt").write_text("mine")
    ask(format="webp", classes=("sea cow",), num=1, fresh=True)
    assert set(files(out)) == {"ant/000001.png", "notes.txt", "sea cow/000000.webp", "sample.json"}
    assert not (out / "bee").exists()


def test_nothing_is_deleted_for_a_job_that_cannot_be_begun(ask, monkeypatch):
    out = ask()
    before = files(out)

    def fail(*words):
        raise AlitokError("There is no int8 kernel for cuda in this PyTorch; choose fp32 or bf16.")

    monkeypatch.setattr(workflow, "pixel_precision", fail)
    with pytest.raises(AlitokError, match="no int8 kernel"):
        ask(precision="int8", fresh=True)
    assert files(out) == before


@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_removal_can_be_restarted(ask, monkeypatch, tmp_path, number):
    changes = ({}, {"out": tmp_path / "all.npz"})[number]
    out = ask(**changes)
    removed = []

    def remove(path):
        removed.append(path)
        if len(removed) > 5 or path == tmp_path / "all.npz":
            raise KeyboardInterrupt
        path.unlink(missing_ok=True)

    with monkeypatch.context() as patch:
        patch.setattr("alitok.core.jobdir.remove", remove)
        with pytest.raises(KeyboardInterrupt):
            ask(**changes, seed=6, fresh=True)
    assert removed
    ask(**changes, seed=6, fresh=True)
    ask(**changes, seed=6)
    assert SamplePlace(out).read().seed == 6


def test_foreign_files_are_never_touched(ask, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("x")
    (tmp_path / "a.npz").write_text("x")
    (tmp_path / "b.parts").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "json").mkdir()
    write_json(tmp_path / "json" / "sample.json", {"kind": "tokenizer"})
    (tmp_path / "broken").mkdir()
    write_json(tmp_path / "broken" / "sample.json", {"kind": "samples", "seed": 1})
    before = files(tmp_path)
    for fresh in (False, True):
        for name, said in (
            ("out", "is not empty and is not an alitok sample directory"),
            ("a.npz", "was not written by alitok sample"),
            ("b.npz", "was not written by alitok sample"),
            ("file", "is a file"),
            ("json", "was not written by alitok sample"),
            ("broken", "is missing; add it; .* is damaged or of another version"),
        ):
            with pytest.raises(AlitokError, match=said):
                ask(out=tmp_path / name, fresh=fresh)
    assert files(tmp_path) == before
    beginning = tmp_path / "new"
    beginning.mkdir()
    (beginning / ".sample.json.host-12.part").write_text("{")  # killed while it began
    assert len(list(ask(out=beginning).rglob("*.png"))) == 37


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"per_class": 12}, "--num 37, but --per-class 12 of 3 classes makes 36"),
        ({"num": 0}, "--num must be at least 1, not 0"),
        ({"num": None, "per_class": -2}, "--per-class must be at least 1, not -2"),
        ({"classes": ("ant", "0")}, r"--classes names class 0 twice \('0'\)"),
        ({"classes": ("ants",)}, r"no class 'ants'; near: ant \(0\)"),
        ({"batch_size": 0}, "batch size must be at least 1"),
        ({"batch_size": 1 << 40}, "use a batch size of at most"),
        ({"sampling": SamplingOverrides(top_p=1.5)}, r"top_p must be within \(0, 1\]"),
        (
            {"out": "x.zip"},
            r"x\.zip is not a supported kind of file; give a directory, or .* \.npz",
        ),
        ({"out": "x.PNG"}, r"x\.PNG is not a supported kind of file"),
        ({"out": "x.npz", "format": "png"}, "is an npz file, but --format is png"),
        ({"out": "x.NPZ", "format": "png"}, "is an npz file, but --format is png"),
        ({"model": "nowhere"}, "not a directory with a saved model"),
    ],
)
def test_bad_jobs_are_rejected_before_anything_is_written(ask, tmp_path, changes, said):
    if "out" in changes:
        changes = {**changes, "out": tmp_path / changes["out"]}
    with pytest.raises(AlitokError, match=said):
        ask(**changes)
    assert list(tmp_path.iterdir()) == []


def test_number_of_images(ask, model):
    pipeline = Pipeline.from_pretrained(model, device="cpu")
    many = Pipeline(pipeline.tokenizer, Generator(replace(pipeline.generator.config, classes=1000)))
    for pair, changes, count in (
        (pipeline, {}, 3),
        (many, {}, 64),
        (many, {"classes": ("5", "6")}, 2),
        (many, {"num": 50_000, "per_class": 50}, 50_000),
        (many, {"per_class": 50}, 50_000),
        (many, {"num": 7}, 7),
    ):
        assert SamplingJob.of(pair, sampling=SamplingOverrides(), **changes).count == count


@pytest.mark.parametrize(
    ("names", "count", "folders"),
    [
        ([], 3, ["0", "1", "2"]),
        (["7", "0", "b c"], 3, ["7", "0", "b c"]),
        (["crane", "Crane"], 2, ["0_crane", "1_Crane"]),
        (["a/b", ".c", "d. . ", "..", "", "e. _"], 6, ["0_a_b", "1_c", "2_d", "3", "4", "5_e"]),
        (["train", "b"], 2, ["0_train", "1_b"]),
        (["x" * 300, *map(str, range(10))], 11, ["00_" + "x" * 120, *(f"{n + 1:02d}_{n}" for n in range(10))]),
    ],
)
def test_folder_names_are_valid_on_any_file_system(names, count, folders):
    assert list(class_folders(names, count)) == folders


def test_damaged_parts_are_reported(ask, tmp_path, monkeypatch):
    out = tmp_path / "all.npz"
    with monkeypatch.context() as patch:
        patch.setattr(workflow, "progress_bar", _stop_after(2))
        with pytest.raises(KeyboardInterrupt):
            ask(out=out)
    assert sorted(path.name for path in (tmp_path / "all.parts").iterdir()) == ["part-00000.npy", "part-00001.npy"]
    np.save(tmp_path / "all.parts" / "part-00001.npy", np.zeros((3, 16, 16, 3), np.uint8))
    with pytest.raises(AlitokError, match=r"part-00001\.npy is damaged; delete it"):
        ask(out=out)
    (tmp_path / "all.parts" / "part-00001.npy").write_bytes(b"\x93NUMPY, and no more")
    with pytest.raises(AlitokError, match=r"part-00001\.npy is damaged; delete it"):
        ask(out=out)
    (tmp_path / "all.parts" / "part-00001.npy").unlink()
    (tmp_path / f".{out.name}.host-5.part").write_bytes(b"half an archive")
    ask(out=out)
    assert {path.name for path in tmp_path.iterdir()} == {"all.npz", "all.sample.json"}


def _stop_after(blocks):
    class Bar:
        def __init__(self, *words):
            self.steps = 0

        def __enter__(self):
            return self

        def __exit__(self, *words):
            pass

        def advance(self, *words):
            self.steps += 1
            if self.steps == blocks:
                raise KeyboardInterrupt

    return Bar


def test_images_that_vanish_before_the_end_are_reported(ask, monkeypatch, tmp_path):
    plain = workflow.sample_blocks

    def others_fail(*words, **names):
        yield from list(plain(*words, **names))[:-1]

    monkeypatch.setattr(workflow, "sample_blocks", others_fail)
    for changes in ({}, {"out": tmp_path / "x.npz"}):
        with pytest.raises(AlitokError, match=r"Image 32 is not in .* share one disk"):
            ask(**changes)
    assert not (tmp_path / "x.npz").exists()


def command(model, out, processes=1):
    words = ["alitok", "sample", model, "--out", out, "--num", 600, "--batch-size", 1, "--device", "cpu"]
    start = ["-m"]
    if processes > 1:  # without "--" the launcher takes --num for an option of its own
        start = ["-m", "torch.distributed.run", "--nproc-per-node", processes, "-m", "--"]
    return [sys.executable, *map(str, [*start, *words])]


def children(number):
    """A process and all below it."""
    found = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in found.splitlines()]
    family = [number]
    for parent in family:
        family += [child for child, above in pairs if above == parent]
    return family


@pytest.fixture(scope="module")
def unbroken(model, tmp_path_factory):
    """The files of jobs that one process ended undisturbed."""
    root = tmp_path_factory.mktemp("whole")
    for out in ("out", "all.npz"):
        run_sample(str(model), SampleOptions(out=root / out, num=600, batch_size=64, device="cpu"))
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "processes", "name"),
    [(signal.SIGKILL, 1, "out"), (signal.SIGKILL, 2, "all.npz"), (signal.SIGTERM, 1, "out")],
)
def test_killed_and_started_again_it_ends_with_the_same_bytes(model, unbroken, tmp_path, number, processes, name):
    out, kind = tmp_path / name, "*/*.png" if name == "out" else "all.parts/part-*.npy"
    start = command(model, out, processes)
    process = subprocess.Popen(start, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    searched = out if name == "out" else tmp_path
    until = time.monotonic() + 120
    while not list(searched.glob(kind)) and time.monotonic() < until:
        time.sleep(0.001)
    if number == signal.SIGKILL:  # all at once, as when a machine goes
        for member in reversed(children(process.pid)):
            os.kill(member, number)
    else:
        process.send_signal(number)
    said = process.communicate(timeout=120)[0]
    if number == signal.SIGTERM:
        assert process.returncode == 0, said
        assert "Traceback" not in said
        assert not list(tmp_path.rglob(".*.part"))
    finished = {path: path.stat() for path in searched.glob(kind)}
    assert 0 < len(finished) < (600 if name == "out" else 38), "it was killed too late to prove anything"
    assert not (tmp_path / "all.npz").exists()

    subprocess.run(start, env=ENVIRONMENT, check=True, capture_output=True, timeout=300)
    if name == "out":
        for path, before in finished.items():
            assert path.stat().st_mtime_ns == before.st_mtime_ns, f"{path} was written again"
    made, whole = files(tmp_path), files(unbroken)
    whole = {path: content for path, content in whole.items() if path.startswith(name.removesuffix(".npz"))}
    manifest = "out/sample.json" if name == "out" else "all.sample.json"
    heads = [json.loads(found.pop(manifest)) for found in (made, whole)]
    assert [head.pop("block") for head in heads] == [16, 64]
    assert heads[0] == heads[1]
    assert made == whole
