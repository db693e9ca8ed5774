"""Both distributions are built, installed into a fresh environment, and used."""

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

# Must run with the base installation alone.
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
data = ("py.typed", "imagenet_classes.txt", "apps/serve/page/index.html", "report/template.html")
output = {
    "names": names,
    "from": alitok.__file__,
    "sizes": [image.size for image in images],
    "again": pipeline("a", seed=3, guidance_scale=2.0)[0].tobytes() == images[0].tobytes(),
    "data": [files("alitok").joinpath(name).is_file() for name in data],
    "imagenet": len(files("alitok").joinpath("imagenet_classes.txt").read_text().splitlines()),
}
print(json.dumps(output))
"""

# The extra that an error should name, and the command that needs it.
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
ERRORS = """
import contextlib, io, json, sys
from alitok.cli import app

output = []
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as error:
        try:
            status = app.meta(command.split())
        except SystemExit as left:
            status = left.code
    output.append((status, error.getvalue()))
print(json.dumps(output))
"""


def run(command, at):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compile once, not in each process
    environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run([*map(str, command)], cwd=at, capture_output=True, text=True, check=False, env=environment)


def uv(*words, at):
    """Call uv, from its cache if possible; skip the test without a network."""
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
    """The wheel and the source distribution, from a copy, because building leaves files beside the sources."""
    place = tmp_path_factory.mktemp("built")
    others = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "site")
    shutil.copytree(ROOT, place / "copy", ignore=others)
    uv("build", "--out-dir", place / "dist", place / "copy", at=place)
    (wheel,), (source,) = (place / "dist").glob("*.whl"), (place / "dist").glob("*.tar.gz")
    return {"wheel": wheel, "source": source, "sources": place / "copy" / "src"}


@pytest.fixture(scope="module", params=["wheel", "source"])
def installed(request, built, tmp_path_factory):
    """The python of an environment with only the package and its dependencies, and an empty directory."""
    place = tmp_path_factory.mktemp(request.param)
    uv("venv", "--python", sys.executable, place / "venv", at=place)
    python = place / "venv" / "bin" / "python"
    uv("pip", "install", "--link-mode", "hardlink", "--python", python, built[request.param], at=place)
    return python, tmp_path_factory.mktemp("work")


def test_the_version_is_the_same_everywhere():
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    assert alitok.__version__ == version("alitok")
    assert any(line.split()[1].strip("[]") == alitok.__version__ for line in headings), headings


@pytest.mark.slow
def test_distributions_contain_exactly_the_package(built):
    sources = {path.relative_to(built["sources"]).as_posix() for path in built["sources"].rglob("*") if path.is_file()}
    sources = {name for name in sources if "egg-info" not in name and "__pycache__" not in name}
    assert {"alitok/py.typed", "alitok/imagenet_classes.txt", "alitok/apps/serve/page/index.html"} < sources
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
def test_the_base_installation_samples_and_errors_name_missing_extras(installed):
    python, work = installed
    tiny = run([python, "-c", TINY], work)
    assert tiny.returncode == 0, tiny.stderr
    output = json.loads(tiny.stdout.splitlines()[-1])
    assert output["names"] == {name: name for name in alitok.__all__}
    assert Path(output["from"]).is_relative_to(python.parents[1])
    assert output["sizes"] == [[16, 16]] * 2
    assert output["again"]
    assert output["data"] == [True] * 4
    assert output["imagenet"] == 1000

    command = python.with_name("alitok")
    installed_version = "import importlib.metadata as m; print(m.version('alitok'))"
    assert (
        run([command, "--version"], work).stdout.strip() == run([python, "-c", installed_version], work).stdout.strip()
    )
    assert "389,899,308" in run([command, "models"], work).stdout

    failed = run([python, "-c", ERRORS, json.dumps([words for _, words in WITHOUT])], work)
    assert failed.returncode == 0, failed.stderr
    answers = json.loads(failed.stdout.splitlines()[-1])
    for (extra, words), (status, message) in zip(WITHOUT, answers, strict=True):
        assert status == 2, (words, message)
        assert message.startswith("alitok: "), (words, message)
        assert f"pip install 'alitok[{extra}]'" in message, (words, message)
        assert "Traceback" not in message
        assert len(message.strip().splitlines()) == 1, (words, message)
