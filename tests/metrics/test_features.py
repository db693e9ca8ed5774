import pytest
from torch import nn

from alitok.metrics.inception import OFFICIAL, InceptionFeatures


def test_only_the_official_weights_give_a_fid():
    assert InceptionFeatures(nn.Identity(), OFFICIAL, "a").distance == "FID"


@pytest.mark.parametrize("name", ["inception-0123456789abcdef", f"{OFFICIAL}-2"])
def test_other_weights_name_themselves_in_the_distance(name):
    assert InceptionFeatures(nn.Identity(), name, "a").distance == f"Frechet distance in the features of {name}"
