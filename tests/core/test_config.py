import copy
import datetime
from typing import Literal

import pytest

from alitok.core.config import config, from_dict, merge, override, read_toml, require_at_least, to_dict, to_toml
from alitok.core.errors import AlitokError


@config
class Inner:
    rate: float = 1e-3
    kind: Literal["cosine", "linear"] = "cosine"
    betas: tuple[float, float] = (0.9, 0.99)

    def __post_init__(self):
        if self.rate <= 0:
            raise ValueError("rate must be > 0")


@config
class Square:
    side: int = 1
    count: int = 1


@config
class Circle:
    radius: float = 1.0
    count: int = 1

    def __post_init__(self):
        if self.radius <= 0:
            raise ValueError("radius must be > 0")


@config
class Part:
    name: str = "main"
    steps: int = 1
    rate: float = 0.5

    def __post_init__(self):
        require_at_least(self, 0, "steps")


@config
class Outer:
    steps: int
    inner: Inner = Inner()
    other: Inner | None = None
    shape: Square | Circle = Square()
    shapes: tuple[Square | Circle | None, ...] = ()
    parts: tuple[Part, ...] = ()


def test_round_trip_through_toml_keeps_every_value(tmp_path):
    value = Outer(steps=3, inner=Inner(rate=3e-4, betas=(0.5, 0.6)))
    path = tmp_path / "a.toml"
    path.write_text(to_toml(to_dict(value)))
    assert from_dict(Outer, read_toml(path), "a.toml") == value


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"steps": 1, "inner": {"rates": 1.0}}, "unknown key 'inner.rates'; did you mean 'inner.rate'?"),
        ({"steps": 1, "zzz": 1}, "unknown key 'zzz'; known here: inner, other, parts, shape, shapes, steps."),
        (
            {"steps": 1, "inner": {"zzz": 1}},
            "unknown key 'inner.zzz'; known here: betas, kind, rate.",
        ),
        ({"steps": datetime.date(2024, 1, 1)}, "key 'steps' = '2024-01-01'"),
        ({}, "key 'steps' is missing"),
        ({"steps": "five"}, "key 'steps' = 'five'"),
        ({"steps": True}, "key 'steps' = True"),
        ({"steps": 1.5}, "key 'steps' = 1.5"),
        ({"steps": 1, "inner": {"kind": "square"}}, "key 'inner.kind' = 'square'"),
        ({"steps": 1, "inner": {"rate": -1.0}}, "rate must be > 0"),
        ({"steps": 1, "other": {"rat": 1.0}}, "did you mean 'other.rate'?"),
        ({"steps": 1, "shape": {"sid": 2}}, "unknown key 'shape.sid'; did you mean 'shape.side'?"),
        ({"steps": 1, "shape": {"radios": 2}}, "unknown key 'shape.radios'; did you mean 'shape.radius'?"),
        ({"steps": 1, "shape": {"radius": 2.0, "cout": 3}}, "unknown key 'shape.cout'; did you mean 'shape.count'?"),
        (
            {"steps": 1, "shape": {"zzz": 2}},
            "unknown key 'shape.zzz'; known here: count, radius, side.",
        ),
        ({"steps": 1, "shape": {"side": 2, "radius": 1.0}}, "does not fit the other keys of 'shape'."),
        ({"steps": 1, "shape": {"radius": "two"}}, "key 'shape.radius' = 'two'"),
        ({"steps": 1, "shape": {"radius": -1.0}}, "key 'shape': radius must be > 0."),
        ({"steps": 1, "shape": 3}, "key 'shape' = 3"),
        ({"steps": 1, "inner.rate": 1.0}, "unknown key 'inner.rate'; write dotted keys without quotes."),
        ({"steps": 1, "parts": [{"name": "main", "stps": 3}]}, "'parts.main.stps'; did you mean 'parts.main.steps'?"),
        ({"steps": 1, "parts": [{"name": "main", "steps": "x"}]}, "key 'parts.main.steps' = 'x'"),
        ({"steps": 1, "parts": [{"name": "main", "steps": -1}]}, "key 'parts.main': steps must be at least 0"),
        ({"steps": 1, "shapes": [None, {"radios": 2.0}]}, "'shapes.1.radios'; did you mean 'shapes.1.radius'?"),
    ],
)
def test_a_wrong_key_or_value_is_named_in_one_sentence(data, message):
    with pytest.raises(AlitokError, match=r"\w") as error:
        from_dict(Outer, data, "recipe.toml")
    assert message in str(error.value)
    assert str(error.value).startswith("recipe.toml: ")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 150


def test_the_keys_choose_among_several_configs():
    assert from_dict(Outer, {"steps": 1, "shape": {"count": 3}}, "").shape == Square(count=3)  # the first that fits
    for shape in (Square(side=3), Circle(radius=2.0), Circle(), Square(side=2, count=5)):
        value = Outer(steps=1, shape=shape, shapes=(None, shape))
        assert from_dict(Outer, to_dict(value), "") == value


BASE = {"lr": 1, "phases": [{"name": "main", "steps": 9, "rate": 0.1}, {"name": "gan", "steps": 5, "rate": 0.2}]}


@pytest.mark.parametrize(
    ("over", "phases"),
    [
        ({"phases": {"gan": {"steps": 2}}}, [BASE["phases"][0], {"name": "gan", "steps": 2, "rate": 0.2}]),
        ({"phases": {"0": {"steps": 2}}}, [{"name": "main", "steps": 2, "rate": 0.1}, BASE["phases"][1]]),
        ({"phases": [{"name": "gan", "steps": 2}]}, [{"name": "gan", "steps": 2, "rate": 0.2}]),
        ({"phases": [{"steps": 2}]}, [{"name": "main", "steps": 2, "rate": 0.1}]),
        ({"phases": [{"name": "new", "steps": 2}]}, [{"name": "new", "steps": 2}]),
        ({"phases": []}, []),
    ],
)
def test_items_of_lists_are_laid_over_those_of_their_name(over, phases):
    kept = copy.deepcopy(BASE)
    assert merge(BASE, over, "my.toml") == {"lr": 1, "phases": phases}
    assert kept == BASE


def test_an_item_that_is_not_there_cannot_be_changed():
    with pytest.raises(
        AlitokError, match=r"my.toml: 'man' is not an item of this list; choose one of: 0, 1, main, gan"
    ):
        merge(BASE, {"phases": {"man": {"steps": 2}}}, "my.toml")


def test_override_reads_toml_values_and_leaves_the_original_alone():
    data = {"a": {"b": 1}, "c": "x"}
    result = override(data, ["a.b=3e-4", "c=hello", "d.e=[1, 2]", "f=true"])
    assert result == {"a": {"b": 3e-4}, "c": "hello", "d": {"e": [1, 2]}, "f": True}
    assert data == {"a": {"b": 1}, "c": "x"}


@pytest.mark.parametrize("assignment", ["steps", "=3", "c.d=3"])
def test_an_override_that_cannot_be_read_says_so(assignment):
    with pytest.raises(AlitokError, match="verride"):
        override({"c": 1}, [assignment])


def test_broken_and_missing_files(tmp_path):
    with pytest.raises(AlitokError, match="No configuration file"):
        read_toml(tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(AlitokError, match="not valid TOML"):
        read_toml(tmp_path / "bad.toml")
