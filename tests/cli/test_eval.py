"""The options of `alitok eval` reach the application."""

from pathlib import Path

import pytest

from alitok.apps.evaluate import generation as eval_generation
from alitok.apps.evaluate import reconstruction as eval_reconstruction
from alitok.apps.evaluate import reference as eval_reference
from alitok.cli import eval as command
from alitok.core.errors import AlitokError
from alitok.sampling import SamplingOverrides


@pytest.fixture
def asked(monkeypatch):
    found = []

    def record(name, options, command=""):
        found.append((name, options, command))

    monkeypatch.setattr(eval_generation, "run_eval_generation", record)
    monkeypatch.setattr(eval_reconstruction, "run_eval_reconstruction", record)
    monkeypatch.setattr(eval_reference, "run_eval_reference", record)
    return found


def test_generation(asked):
    words = "generation m --out o --reference r.npz --num 7 --classes 1 2 --guidance-scale 2 --sweep scale,power"
    command.app([*words.split(), "--scales", "1.5", "2", "--sweep-num", "5"], result_action="return_value")
    ((name, options, typed),) = asked
    assert (name, options.out, options.reference, options.num) == ("m", Path("o"), "r.npz", 7)
    assert options.classes == ("1", "2")
    assert options.sampling == SamplingOverrides(guidance_scale=2.0)
    assert options.swept() == {"scale": (1.5, 2.0), "power": ()}
    assert options.sweep_num == 5
    assert typed.split()[0] == "alitok"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--sweep scales", "takes scale, power, or scale,power, not 'scales'"),
        ("--scales 2", "--scales needs --sweep scale"),
        ("--sweep scale --powers 2", "--powers needs --sweep power"),
    ],
)
def test_a_sweep_of_something_else_is_rejected(asked, words, message):
    command.app(["generation", "m", "--out", "o", *words.split()], result_action="return_value")
    with pytest.raises(AlitokError, match=message):
        asked[0][1].swept()


def test_reconstruction_and_reference(asked):
    words = "reconstruction t --data d --out o --split train --lpips-vgg v.pth"
    command.app(words.split(), result_action="return_value")
    command.app(["reference", "d", "--out", "r.npz", "--size", "64", "--fresh"], result_action="return_value")
    (tokenizer, first, _), (data, second, _) = asked
    assert (tokenizer, first.data, first.split, first.lpips_vgg) == (Path("t"), "d", "train", "v.pth")
    assert (data, second.out, second.size, second.fresh) == ("d", Path("r.npz"), 64, True)
