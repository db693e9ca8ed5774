"""The named recipes."""

from alitok.recipes.presets import RECIPES


def test_full_size_stage_1_measures_predictability_and_stage_2_does_not():
    for name in ("alitok-256", "alitok-256-v1", "alitok-512"):
        assert RECIPES[name].stage1.predictability.every == 25_000
        assert RECIPES[name].stage2.predictability.every == 0
