"""Each arm of the ablation differs from the one it is compared with in one thing only."""

from dataclasses import replace

import pytest
import torch

from alitok.core.config import to_dict
from alitok.core.errors import AlitokError
from alitok.core.jobdir import differences
from alitok.recipes.ablation import ABLATION_PRESETS, cell_recipe
from alitok.recipes.arms import ARMS, CURVE_ARMS, USUAL_ARMS
from alitok.tokenizer import Tokenizer

TINY = ABLATION_PRESETS["tiny"]


def recipe(arm, **changes):
    return cell_recipe(TINY, ARMS[arm], changes.pop("codebook_size", 256), image_size=32, classes=14)


def differing(first, second):
    return set(differences(to_dict(recipe(first)), to_dict(recipe(second))))


def test_each_arm_differs_in_one_thing_only():
    assert differing("A", "CE") == {"tokenizer.encoder.causal"}
    assert differing("A", "B") == {"tokenizer.stage1.causal"}
    assert differing("B", "C") == {"tokenizer.prefix"}
    assert differing("C", "D") == {"tokenizer.stage1.prefix_head", "stage1.phases"}
    assert recipe("C").stage1.phases[0].losses.auxiliary == 0
    assert recipe("D").stage1.phases[0].losses.auxiliary == 1
    assert differing("D", "F") == set()  # stage 2 is a separate step
    assert differing("F", "F-") == {"tokenizer.stage2.reads_prefix"}
    assert differing("D", "E") == {"stage1.phases", "generator.phases"}
    assert recipe("E").stage1.phases[0].steps == 2 * recipe("D").stage1.phases[0].steps
    assert {path.rpartition(".")[0] for path in differing("A", "V")} == {"tokenizer.encoder", "tokenizer.stage1"}


def test_a_perceptual_term_is_the_same_for_all_arms_and_off_in_the_presets():
    assert {phase.losses.networks() for arm in ARMS for phase in recipe(arm).stage1.phases} == {()}
    for arm in ARMS:
        compared = cell_recipe(replace(TINY, perceptual=0.3), ARMS[arm], 64, image_size=32, classes=14)
        for training in (compared.stage1, compared.stage2):
            assert [phase.losses.local for phase in training.phases] == [0.3]
            assert [phase.losses.networks() for phase in training.phases] == [("local",)]


def test_the_arms_of_the_table_and_those_they_share_codes_with():
    assert set(USUAL_ARMS) == set(ARMS) - {"E"}
    assert set(CURVE_ARMS) <= set(USUAL_ARMS)
    assert {name: arm.codes_of for name, arm in ARMS.items() if arm.codes_of} == {"F": "D", "F-": "D"}
    assert all((arm.stage2 is None) == (arm.codes_of is None) for arm in ARMS.values())


@pytest.mark.parametrize("preset", ABLATION_PRESETS.values())
@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_encodes_and_decodes_at_the_sizes_of_every_preset(preset, arm):
    size = preset.image_size(16)
    config = cell_recipe(preset, ARMS[arm], 64, image_size=size, classes=3).tokenizer
    assert (config.image_size, config.grid) == (size, preset.grid)
    assert config.prefix_length == (preset.grid if ARMS[arm].prefix else 0)
    tokenizer = Tokenizer(config).eval()
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        assert tokenizer.reconstruct(images, "stage1").shape == images.shape
        if not ARMS[arm].convolutional:
            assert tokenizer.reconstruct(images, "stage2").shape == images.shape


def test_decoders_of_all_transformer_arms_have_similar_parameter_counts():
    sizes = {}
    for arm in ARMS:
        if not ARMS[arm].convolutional:
            decoder = Tokenizer(recipe(arm).tokenizer).decoder("stage2" if ARMS[arm].stage2 else "stage1")
            sizes[arm] = sum(weight.numel() for weight in decoder.parameters())
    assert max(sizes.values()) < 1.06 * min(sizes.values()), sizes


def test_the_image_size_is_the_largest_that_grid_and_preset_allow():
    assert [TINY.image_size(size) for size in (256, 32, 31, 16, 8)] == [32, 32, 28, 16, 8]
    with pytest.raises(AlitokError, match="7 px are too small for 4 x 4 codes"):
        TINY.image_size(7)
