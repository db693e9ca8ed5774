"""Which steps are stale after a change, and that the table names real settings and methods."""

import pytest

from alitok.core.config import to_dict
from alitok.recipes.presets import RECIPES
from alitok.run.run import Run
from alitok.run.steps import STEPS, begun, outputs, remains, stale

LATER = ["pipeline", "sample", "measure"]


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        ("seed", list(STEPS)),
        ("contents", list(STEPS)),
        ("recipe.tokenizer.image_size", list(STEPS)),
        ("recipe.tokenizer.codebook_size", ["stage1", "stage2", "encode", "generator", *LATER]),
        ("recipe.stage1.phases", ["stage1", "stage2", "encode", "generator", *LATER]),
        ("recipe.stage1.loop.batch_size", ["stage1", "stage2", "encode", "generator", *LATER]),
        ("recipe.tokenizer.stage2.width", ["stage2", *LATER]),
        ("recipe.tokenizer.stage2", ["stage2", *LATER]),
        ("recipe.stage2.adversary.weight", ["stage2", *LATER]),
        ("recipe.crops", ["encode", "generator", *LATER]),
        ("recipe.generator.phases", ["generator", *LATER]),
        ("recipe.generator_size.layers", ["generator", *LATER]),
        ("recipe.sampling.top_k", LATER),
        ("recipe.samples_per_class", ["sample", "measure"]),
        ("recipe.stage1.loop.log_every", []),
        ("recipe.generator.loop.keep", []),
        ("recipe.stage1.predictability.every", []),
    ],
)
def test_what_depends_on_a_setting_is_stale_and_nothing_else(changed, again):
    assert stale([changed]) == again


def test_every_setting_of_a_recipe_decides_some_step_or_is_known_to_be_harmless():
    def paths(values, prefix):
        for key, value in values.items():
            yield from paths(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]

    recipe = to_dict(RECIPES["alitok-256"])
    del recipe["engine"]  # never part of run.toml
    without = {path for path in paths(recipe, "recipe.") if not stale([path])}
    written = {"log_every", "evaluate_every", "checkpoint_every", "keep", "max_skips", "max_restores", "usage_alarm"}
    assert {path.rpartition(".")[2] for path in without if ".predictability." not in path} == written


def test_the_steps_are_methods_of_a_run_in_an_order_that_satisfies_their_needs():
    seen = set()
    for name, step in STEPS.items():
        assert seen >= set(step.needs)
        assert name in ("sample", "measure") or callable(getattr(Run, name))
        assert all(any(product.startswith(output) for output in step.outputs) for product in step.products)
        seen.add(name)
    assert outputs() == (
        "features",
        "stage1",
        "stage2",
        "model",
        "codes",
        "generator",
        "samples",
        *("metrics.json", "report.html"),
    )


def test_a_step_has_begun_once_anything_of_it_is_there(tmp_path):
    assert not any(begun(tmp_path, name) for name in STEPS)
    (tmp_path / "stage2" / "checkpoints").mkdir(parents=True)
    assert [name for name in STEPS if begun(tmp_path, name)] == ["stage2"]
    assert remains("stage2") == ("stage2", "model/tokenizer", "done/stage2.json")
