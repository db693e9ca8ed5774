import pytest

from alitok.recipes.presets import RECIPES
from alitok.run.schedule import plan
from alitok.train.optim import OptimizerConfig
from alitok.train.schedule import Phase
from alitok.train.task import LoopConfig


def test_steps_images_and_epochs_by_hand():
    phases = (Phase(name="a", steps=10, learning_rate=1e-3), Phase(name="b", steps=30, warmup_steps=5))
    rows = plan(phases, LoopConfig(batch_size=64), images=160)
    assert [(row.name, row.first_step, row.steps, row.images) for row in rows] == [
        ("a", 0, 10, 640),
        ("b", 10, 30, 1920),
    ]
    assert [row.epochs for row in rows] == [4.0, 12.0]
    assert rows[1].warmup_steps == 5


def test_rates_are_those_after_the_rule_for_the_batch():
    loop = LoopConfig(batch_size=512, optimizer=OptimizerConfig(rate_rule="sqrt"))
    (row,) = plan((Phase(steps=1, learning_rate=1e-3, final_learning_rate=1e-5),), loop, images=1)
    assert row.rates == pytest.approx((5e-4, 5e-6))


def test_the_published_recipes_have_the_published_lengths():
    imagenet = 1_281_167
    for name, stage1_steps in (("alitok-256", 600_000), ("alitok-256-v1", 350_000)):
        recipe = RECIPES[name]
        stage1 = plan(recipe.stage1.phases, recipe.stage1.loop, imagenet)
        assert sum(row.steps for row in stage1) == stage1_steps
        assert sum(row.steps for row in plan(recipe.stage2.phases, recipe.stage2.loop, imagenet)) == 300_000
        (generator,) = plan(recipe.generator.phases, recipe.generator.loop, imagenet)
        assert generator.epochs == pytest.approx(800, abs=0.01)  # ten stored crops make no epoch longer


def test_each_phase_says_what_it_minimises():
    rows = plan(RECIPES["alitok-256"].stage1.phases, RECIPES["alitok-256"].stage1.loop, 1)
    assert rows[0].losses == ("1 mse", "0.1 convnext", "1 lpips", "1 quantizer", "1 auxiliary")
    assert rows[2].losses[-2:] == ("0.1 adversarial", "discriminator on, 1")
    frozen = plan(RECIPES["alitok-256"].stage2.phases, RECIPES["alitok-256"].stage2.loop, 1, frozen_codes=True)
    assert frozen[1].losses == ("1 mse", "1 convnext")
