"""Commands, options, recipe keys, files and variables that the pages mention exist."""

import re
import shlex
from pathlib import Path

import pytest
from cyclopts import CycloptsError, MissingArgumentError

from alitok.cli import app
from alitok.core.config import from_dict, override, to_dict
from alitok.core.errors import AlitokError
from alitok.recipes.fitted import FITTED, fitted
from alitok.recipes.presets import RECIPES, Recipe
from alitok.run.resolve import with_generator

ROOT = Path(__file__).resolve().parents[2]
_SHELLS = ("", "bash", "console")
_RECIPES = [*RECIPES.values(), *(fitted(name, image_size=32, images=1000) for name in FITTED)]
_ASK_NOTHING = {"print_error": False, "exit_on_error": False, "help_on_error": False}
# Of programs that the pages use besides ours and torchrun.
_OTHERS = {"--kill-on-bad-exit", "--requeue", "--dependency", "--signal", "--array", "--logdir"}


def commands(text):
    """The text after `alitok` on each line of a shell block, continuations joined; lines with variables are skipped."""
    for line in text.replace("\\\n", " ").splitlines():
        match = re.search(r"(?:^|[\s/])alitok\s+(\w.*)", line)
        if match and "$" not in line:
            yield re.split(r"\s[|&;]", match[1])[0]


def parse(command):
    tokens = [token for token in shlex.split(command, comments=True) if token not in ("...", "--debug")]
    return app.parse_args(tokens, **_ASK_NOTHING)


def written(page):
    blocks = [block.text for block in page.blocks if block.language in _SHELLS]
    return [command for text in blocks for command in commands(text)]


def test_commands_are_found_in_the_pages(pages):
    assert sum(len(written(page)) for page in pages.values()) > 60
    assert "train stage2 --out runs/imagenet" in [" ".join(c.split()) for c in written(pages["docs/imagenet.md"])]


def test_commands_in_blocks_parse(page):
    for command in written(page):
        try:
            parse(command)
        except CycloptsError as error:
            pytest.fail(f"{page.name}: alitok {command}\n{error}")


@pytest.mark.parametrize("wrong", ["trian stage1 --out x", "train stage1 --out x --no-such", "train stage4 --out x"])
def test_a_wrong_command_does_not_parse(wrong):
    with pytest.raises(CycloptsError):
        parse(wrong)


def test_commands_in_the_text_parse(page):
    for span in page.spans:
        match = re.match(r"(?:\.venv/bin/)?alitok (\w.*)", span)
        if not match or "|" in match[1] or "-x" in match[1]:
            continue  # `alitok train stage1|stage2`, and file names that begin so
        try:
            parse(match[1])
        except MissingArgumentError:
            continue  # only named, not written out
        except CycloptsError as error:
            pytest.fail(f"{page.name}: {span}\n{error}")


def options_of(program):
    """All options of a program and of the commands below it."""
    names = set()
    for name in program:
        if name.startswith("-"):
            continue
        command = program[name]
        if command.default_command is None:
            names |= options_of(command)
        else:
            names |= {option for argument in command.assemble_argument_collection() for option in argument.names}
    return names


@pytest.fixture(scope="module")
def known_options():
    from torch.distributed.run import get_args_parser

    torchrun = {option for action in get_args_parser()._actions for option in action.option_strings}
    code = "".join(path.read_text("utf-8") for path in (ROOT / "benchmarks").glob("*.py"))
    measuring = set(re.findall(r"add_argument\(\s*\"(--[\w-]+)\"", code))
    assert "--rounds" in measuring
    return options_of(app) | torchrun | measuring | _OTHERS | {"--version", "--debug", "--help"}


def test_options_in_the_text_exist(page, known_options):
    assert {"--guidance-scale", "--per-class", "--rdzv-endpoint"} <= known_options
    named = {option for span in page.spans for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", span)}
    assert {option for option in named if not option.startswith("--rdzv")} <= known_options


def test_torchrun_options_before_the_module_exist(page):
    from torch.distributed.run import get_args_parser

    for block in page.blocks:
        for line in block.text.replace("\\\n", " ").splitlines():
            if match := re.search(r"\btorchrun (.*?) -m ", line):
                words = shlex.split(re.sub(r"\$\(.*?\)", "x", match[1]).replace("$SLURM_NNODES", "4"))
                options = get_args_parser().parse_args([*words, "-m", "alitok"])
                assert (options.module, options.training_script, options.training_script_args) == (True, "alitok", [])


def settings(page):
    """`key.path=value` after a `--set`, in blocks and in the text; the ablation has other keys."""
    for command in [*written(page), *page.spans]:
        if "--set " in command and not command.startswith("ablate"):
            behind = re.split(r"\s--(?!set)", command.split("--set ", 1)[1])[0]
            yield from re.findall(r"\b([a-z][\w.]+=[^\s=]+)", behind)


def test_recipe_keys_exist(page):
    for setting in settings(page):
        if setting.endswith("=...") or "KEY" in setting:
            continue
        assert any(takes(recipe, setting) for recipe in _RECIPES), f"{page.name}: --set {setting}"


def takes(recipe, setting):
    try:
        from_dict(Recipe, override(to_dict(recipe), [setting]), "--set")
    except AlitokError as error:
        return "must be" in str(error) or "needs" in str(error)  # of two settings that go together, the first alone
    return True


def test_keys_without_values_exist(page, root):
    """Such as `loop.max_skips` or `stage1.usage_alarm`: a suffix of a key's path in some recipe."""
    paths = {path for recipe in _RECIPES for path in leaves(to_dict(with_generator(recipe, "B")))}
    paths |= {path for recipe in _RECIPES for path in leaves(to_dict(recipe))}
    tables = {"engine", "stage1", "stage2", "generator", "generator_size", "tokenizer", "loop", "features", "sampling"}
    for span in page.spans:
        key = span.partition("=")[0]
        if re.fullmatch(r"[a-z]\w*(\.[a-z]\w*)+", key) and key.partition(".")[0] in tables and "(" not in span:
            ends = any(path == key or path.endswith(f".{key}") or f"{key}." in path for path in paths)
            assert ends or is_module(key, root), f"{page.name}: {key}"


def is_module(name, root):
    """Whether it is code, such as `generator.model` or `tokenizer.decode`."""
    first, _, rest = name.partition(".")
    folder = root / "src" / "alitok" / first
    return (folder / f"{rest.partition('.')[0]}.py").exists() or f"def {rest}(" in (folder / "model.py").read_text()


def leaves(value, path=""):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list | tuple) and value and isinstance(value[0], dict):
        for inner in value:
            yield from leaves(inner, f"{path}.{inner.get('name', '')}")
    else:
        yield path


def test_mentioned_files_exist(page, root):
    made = {"docs/cli.md", "docs/contributing.md", "docs/changelog.md"}  # by the build
    for span in page.spans:
        if re.fullmatch(r"(docs|tests|src|benchmarks|examples)/[\w./-]+", span) and span not in made:
            assert (root / span).exists(), f"{page.name}: {span}"


def test_environment_variables_are_used_by_the_code(page, root):
    code = "".join(path.read_text("utf-8") for path in (root / "src").rglob("*.py"))
    named = set(re.findall(r"\bALITOK_[A-Z_]+", page.text + "".join(block.text for block in page.blocks)))
    assert {name for name in named if f'"{name}"' not in code} == set()


def test_mentioned_modules_exist(page, root):
    for span in page.spans:
        if match := re.fullmatch(r"(?:from )?(alitok(?:\.\w+)+)", span):
            parts = match[1].split(".")[1:]
            path = root / "src" / "alitok"
            there = any(
                (path.joinpath(*parts[:k]).with_suffix(".py")).exists() or path.joinpath(*parts[:k]).is_dir()
                for k in range(1, len(parts) + 1)
            )
            assert there or parts[0][0].isupper(), f"{page.name}: {span}"
