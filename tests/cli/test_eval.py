"""The words of `alitok eval` reach the work."""

from pathlib import Path

import pytest

from alitok.apps.evaluate import generation as eval_generation
from alitok.apps.evaluate import reconstruction as eval_reconstruction
from alitok.apps.evaluate import reference as eval_reference
from alitok.cli import eval as command
from alitok.core.errors import AlitokError
from alitok.losses.perceptual import PerceptualWeights


@pytest.fixture
def asked(monkeypatch):
    found = []
    monkeypatch.setattr(eval_generation, "run_eval_generation", found.append)
    monkeypatch.setattr(eval_reconstruction, "run_eval_reconstruction", found.append)
    monkeypatch.setattr(eval_reference, "run_eval_reference", found.append)
    return found


def test_generation(asked):
    words = "generation m --out o --reference r.npz --num 7 --classes 1 2 --guidance-scale 2 --sweep scale,power"
    command.app([*words.split(), "--scales", "1.5", "2", "--sweep-num", "5"], result_action="return_value")
    (options,) = asked
    assert (options.judged, options.out, options.reference, options.num) == ("m", Path("o"), "r.npz", 7)
    assert options.classes == ("1", "2")
    assert options.sampling == {"guidance_scale": 2.0}
    assert options.sweep == {"scale": (1.5, 2.0), "power": ()}
    assert options.sweep_num == 5
    assert options.command.split()[0] == "alitok"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--sweep scales", "tries scale, power, or scale,power, but not 'scales'"),
        ("--scales 2", "--scales are values that --sweep scale tries"),
        ("--sweep scale --powers 2", "--powers are values that --sweep power tries"),
    ],
)
def test_a_sweep_of_something_else_is_refused(asked, words, said):
    with pytest.raises(AlitokError, match=said):
        command.app(["generation", "m", "--out", "o", *words.split()], result_action="return_value")
    assert asked == []


def test_reconstruction_and_reference(asked):
    words = "reconstruction t --data d --out o --split train --lpips-vgg v.pth"
    command.app(words.split(), result_action="return_value")
    command.app(["reference", "d", "--out", "r.npz", "--size", "64", "--fresh"], result_action="return_value")
    first, second = asked
    assert (first.tokenizer, first.data, first.split) == (Path("t"), "d", "train")
    assert first.lpips == PerceptualWeights(vgg="v.pth")
    assert (second.data, second.out, second.size, second.fresh) == ("d", Path("r.npz"), 64, True)
