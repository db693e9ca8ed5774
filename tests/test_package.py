"""What a user installs: both distributions are built, installed in an environment of their own, and used."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import alitok

ROOT = Path(__file__).parents[1]
UV = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
UNREACHABLE = ("error sending request", "dns error", "Could not connect", "Failed to fetch", "network", "timed out")

# Everything here must run with the base installation alone.
TINY = """
import json
from importlib.resources import files
from pathlib import Path
import alitok
from alitok.tokenizer import DecoderConfig, EncoderConfig

names = {name: getattr(alitok, name).__name__ for name in alitok.__all__}
small = {"width": 16, "layers": 1, "heads": 2}
tokenizer = alitok.Tokenizer(
    alitok.TokenizerConfig(
        image_size=16,
        patch_size=8,
        codebook_size=16,
        code_width=4,
        encoder=EncoderConfig(**small),
        stage1=DecoderConfig(**small, causal=True, extra_tokens=1, prefix_head=True),
        stage2=DecoderConfig(**small),
    )
)
generator = alitok.Generator(alitok.GeneratorConfig(grid=2, prefix=2, codebook_size=16, classes=2, **small), ("a", "b"))
alitok.Pipeline(tokenizer, generator).save_pretrained("model")
pipeline = alitok.Pipeline.from_pretrained("model", device="cpu")
images = pipeline(["a", 1], seed=[3, 4], guidance_scale=2.0)
for number, image in enumerate(images * 8):
    place = Path("images", "ab"[number % 2], f"{number}.png")
    place.parent.mkdir(parents=True, exist_ok=True)
    image.save(place)
data = ("py.typed", "imagenet_classes.txt", "apps/serve/page/index.html", "report/templates/report.html")
told = {
    "names": names,
    "from": alitok.__file__,
    "sizes": [image.size for image in images],
    "again": pipeline("a", seed=3, guidance_scale=2.0)[0].tobytes() == images[0].tobytes(),
    "data": [files("alitok").joinpath(name).is_file() for name in data],
    "imagenet": len(files("alitok").joinpath("imagenet_classes.txt").read_text().splitlines()),
}
print(json.dumps(told))
"""

# Commands that need an extra, and the one that they should name.
WITHOUT = [
    ("demo", "demo --out demo"),
    ("demo", "demo --data photos --out demo"),
    ("demo", "fit images --out fit"),
    ("eval", "ablate --data images --out ablation --device cpu"),
    ("demo", "probe --tokenizer model --data images --out probe"),
    ("serve", "serve model"),
    ("eval", "eval generation model --data images --out generation"),
    ("eval", "eval reconstruction model --data images --out reconstruction"),
    ("datasets", "data inspect hf:some/thing"),
    ("stream", "data inspect https://127.0.0.1:9/x.tar"),
    ("hub", "sample some/thing --out samples"),
    ("perceptual", "train stage1 --data images --out run --perceptual lpips --device cpu"),
]
REFUSALS = """
import contextlib, io, json, sys
from alitok.cli import app

told = []
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as error:
        try:
            status = app.meta(command.split())
        except SystemExit as left:
            status = left.code
    told.append((status, error.getvalue()))
print(json.dumps(told))
"""


def run(command, at):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled once, not by each process
    environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run([*map(str, command)], cwd=at, capture_output=True, text=True, check=False, env=environment)


def uv(*words, at):
    """Calls uv, with what it has kept of earlier downloads if that is enough; skips where nothing can be fetched."""
    if UV is None:
        pytest.skip("uv is not installed; make setup installs it")
    done = run([UV, *words, "--offline"], at)
    if done.returncode:
        done = run([UV, *words], at)
    if done.returncode and any(word in done.stderr for word in UNREACHABLE):
        pytest.skip(f"no network for what building and installing needs: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the source distribution, from a copy, as building leaves files beside the sources."""
    place = tmp_path_factory.mktemp("built")
    others = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "site")
    shutil.copytree(ROOT, place / "copy", ignore=others)
    uv("build", "--out-dir", place / "dist", place / "copy", at=place)
    (wheel,), (source,) = (place / "dist").glob("*.whl"), (place / "dist").glob("*.tar.gz")
    return {"wheel": wheel, "source": source, "sources": place / "copy" / "src"}


@pytest.fixture(scope="module", params=["wheel", "source"])
def installed(request, built, tmp_path_factory):
    """The python of an environment with nothing but the package and what it needs, and an empty directory."""
    place = tmp_path_factory.mktemp(request.param)
    uv("venv", "--python", sys.executable, place / "venv", at=place)
    python = place / "venv" / "bin" / "python"
    uv("pip", "install", "--link-mode", "hardlink", "--python", python, built[request.param], at=place)
    return python, tmp_path_factory.mktemp("work")


def test_the_version_is_one():
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    assert alitok.__version__ == version("alitok")
    assert any(line.split()[1].strip("[]") == alitok.__version__ for line in headings), headings


@pytest.mark.slow
def test_distributions_hold_the_package_and_nothing_else(built):
    sources = {path.relative_to(built["sources"]).as_posix() for path in built["sources"].rglob("*") if path.is_file()}
    sources = {name for name in sources if "egg-info" not in name and "__pycache__" not in name}
    assert {"alitok/py.typed", "alitok/imagenet_classes.txt", "alitok/serve/page/index.html"} < sources
    with zipfile.ZipFile(built["wheel"]) as wheel:
        names = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert set(names) == sources
    with tarfile.open(built["source"]) as archive:
        members = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    members = {name for name in members if "egg-info/" not in name}
    assert {name.removeprefix("src/") for name in members if name.startswith("src/")} == sources
    beside = {name for name in members if not name.startswith("src/")}
    assert beside == {"CHANGELOG.md", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg"}


@pytest.mark.slow
def test_installed_alone_it_draws_and_names_the_extra_that_is_missing(installed):
    python, work = installed
    tiny = run([python, "-c", TINY], work)
    assert tiny.returncode == 0, tiny.stderr
    told = json.loads(tiny.stdout.splitlines()[-1])
    assert told["names"] == {name: name for name in alitok.__all__}
    assert Path(told["from"]).is_relative_to(python.parents[1])
    assert told["sizes"] == [[16, 16]] * 2
    assert told["again"]
    assert told["data"] == [True] * 4
    assert told["imagenet"] == 1000

    command = python.with_name("alitok")
    kept = "import importlib.metadata as m; print(m.version('alitok'))"
    assert run([command, "--version"], work).stdout.strip() == run([python, "-c", kept], work).stdout.strip()
    assert "389,899,308" in run([command, "models"], work).stdout

    refused = run([python, "-c", REFUSALS, json.dumps([words for _, words in WITHOUT])], work)
    assert refused.returncode == 0, refused.stderr
    answers = json.loads(refused.stdout.splitlines()[-1])
    for (extra, words), (status, said) in zip(WITHOUT, answers, strict=True):
        assert status == 2, (words, said)
        assert said.startswith("alitok: "), (words, said)
        assert f"pip install 'alitok[{extra}]'" in said, (words, said)
        assert "Traceback" not in said
        assert len(said.strip().splitlines()) == 1, (words, said)
