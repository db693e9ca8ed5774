import math
from dataclasses import fields
from typing import get_type_hints

import pytest

from alitok.core.errors import AlitokError
from alitok.sampling.settings import SamplingConfig, SamplingOverrides


def test_overrides_have_every_field_of_the_config_and_none_by_default():
    overrides, config = get_type_hints(SamplingOverrides), get_type_hints(SamplingConfig)
    assert overrides == {name: kind | None for name, kind in config.items()}
    assert [item.name for item in fields(SamplingOverrides)] == [item.name for item in fields(SamplingConfig)]
    assert SamplingOverrides().given() == {}
    assert SamplingOverrides(top_k=0, soft_guidance=False).given() == {"top_k": 0, "soft_guidance": False}


def test_overrides_replace_what_is_given_and_are_checked():
    base = SamplingConfig(guidance_scale=4.0, top_k=5)
    assert SamplingOverrides().apply_to(base) == base
    assert SamplingOverrides(top_k=0).apply_to(base) == SamplingConfig(guidance_scale=4.0)
    with pytest.raises(AlitokError, match=r"top_p must be within \(0, 1\], not 2\.0\.$"):
        SamplingOverrides(top_p=2.0).apply_to(base)
    with pytest.raises(AlitokError, match="soft_guidance needs guidance"):
        SamplingOverrides(guidance_scale=1.0, soft_guidance=True).apply_to(base)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"guidance_scale": -1.0}, "guidance_scale"),
        ({"guidance_scale": math.inf}, "finite"),
        ({"guidance_schedule": "cubic"}, "constant, linear or cosine"),
        ({"guidance_start": 0.5, "guidance_stop": 0.5}, "start < stop"),
        ({"guidance_stop": 1.5}, "start < stop"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": 1e-40}, "temperature must be 0 or at least"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"min_p": 1.5}, "min_p"),
    ],
)
def test_values_outside_their_ranges_are_rejected(change, words):
    with pytest.raises(AlitokError, match=words):
        SamplingConfig(**change)
