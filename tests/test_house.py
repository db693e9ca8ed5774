"""An application can be deleted: its folder, its module in `cli` and its row in the table of commands."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IMPORT_ALL = """
import importlib, pkgutil, alitok
for module in pkgutil.walk_packages(alitok.__path__, "alitok."):
    if module.name != "alitok.__main__":
        importlib.import_module(module.name)
from alitok.cli import app
print(*[name for name in app if not name.startswith("-")])
"""


@pytest.fixture
def copy(tmp_path):
    others = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=others)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def delete(copy, name):
    """The application, its command, and contracts that are about it alone."""
    package = copy / "src" / "alitok"
    shutil.rmtree(package / "apps" / name)
    (package / "cli" / f"{name}.py").unlink()
    table = package / "cli" / "__init__.py"
    text, rows = re.subn(rf'^    "{name}": .*\n', "", table.read_text("utf-8"), flags=re.MULTILINE)
    assert rows == 1
    table.write_text(text, "utf-8")
    settings = copy / "pyproject.toml"
    contracts = re.split(r"(?=^\[\[tool\.importlinter\.contracts)", settings.read_text("utf-8"), flags=re.MULTILINE)
    settings.write_text("".join(part for part in contracts if f'"alitok.apps.{name}"' not in part), "utf-8")


def run(copy, *command):
    environment = {"PYTHONPATH": str(copy / "src"), "PATH": str(Path(sys.executable).parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["probe", "serve"])
def test_an_application_can_be_deleted(copy, name):
    delete(copy, name)
    linted = run(copy, str(Path(sys.executable).with_name("lint-imports")), "--no-cache")
    assert linted.returncode == 0, linted.stdout
    imported = run(copy, sys.executable, "-c", IMPORT_ALL)
    assert imported.returncode == 0, imported.stderr
    left = imported.stdout.split()
    assert name not in left
    assert len(left) > 10


def test_every_application_is_independent_of_the_others():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    assert [contract["modules"] for contract in contracts if contract["type"] == "independence"] == [["alitok.apps.*"]]
