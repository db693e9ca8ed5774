"""Recipes fitted to the images."""

import pytest
import torch

from alitok.recipes.fitted import FITTED, fitted
from alitok.tokenizer import Tokenizer


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("image_size", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("images", [10, 1_500, 1_000_000])
def test_recipes_are_consistent_for_any_images(name, image_size, images):
    recipe = fitted(name, image_size=image_size, images=images)
    tokenizer = recipe.tokenizer
    assert tokenizer.image_size == (image_size if name == "base" else min(image_size, 32))
    assert tokenizer.codebook_size.bit_count() == 1
    assert recipe.crops == "ten"
    uses = 10 * images * tokenizer.sequence_length / tokenizer.codebook_size
    assert uses >= 64 or tokenizer.codebook_size == 64  # of each entry among all crops
    with torch.device("meta"):
        Tokenizer(tokenizer)
        recipe.generator_size.config(tokenizer, classes=3)


@pytest.mark.parametrize("name", FITTED)
def test_steps_and_codebook_grow_with_the_images_up_to_a_limit(name):
    few, some, many, most = (fitted(name, image_size=64, images=10**n) for n in (2, 4, 6, 9))
    for less, more in ((few, some), (some, many)):
        assert less.tokenizer.codebook_size <= more.tokenizer.codebook_size
        assert less.stage1.phases[0].steps < more.stage1.phases[0].steps
        assert less.generator.phases[0].steps <= more.generator.phases[0].steps
    assert name == "base" or most == many
    assert most.stage1.phases[0].steps <= 200_000
