"""The named recipes."""

from alitok.recipes.presets import RECIPES


def test_full_size_tokenizers_are_probed_along_the_way_and_frozen_codes_are_not():
    for name in ("alitok-256", "alitok-256-v1", "alitok-512"):
        assert RECIPES[name].stage1.predictability.every == 25_000
        assert RECIPES[name].stage2.predictability.every == 0
