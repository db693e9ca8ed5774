import pytest
import torch

from alitok.core.device import autocast, choose_device, seed_step
from alitok.core.errors import AlitokError


def test_auto_gives_a_device_that_computes():
    device = choose_device("auto")
    with autocast(device):
        assert torch.ones(2, device=device).sum().item() == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without cuda")
def test_a_missing_device_is_named_with_those_there_are():
    with pytest.raises(AlitokError, match=r"Device cuda.*auto or one of: .*cpu"):
        choose_device("cuda")


def test_the_seed_of_a_step_depends_on_all_three_parts():
    draws = set()
    for key in [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1)]:
        seed_step(*key)
        first = torch.rand(1).item()
        seed_step(*key)
        assert torch.rand(1).item() == first
        draws.add(first)
    assert len(draws) == 4
