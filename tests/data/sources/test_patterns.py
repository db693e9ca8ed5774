from pathlib import Path

import pytest

from alitok.core.errors import AlitokError
from alitok.data.sources.opening import full_name
from alitok.data.sources.patterns import (
    divide,
    expand_braces,
    expand_paths,
    is_pattern,
    is_url,
    read_options,
    with_options,
)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a", ["a"]),
        ("a{000..003}.tar", ["a000.tar", "a001.tar", "a002.tar", "a003.tar"]),
        ("a{8..11}", ["a8", "a9", "a10", "a11"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{x,y}{1..2}", ["x1", "x2", "y1", "y2"]),
        ("{a}", ["a"]),
        ("a{", ["a{"]),
    ],
)
def test_braces(pattern, names):
    assert expand_braces(pattern) == names


@pytest.mark.parametrize("pattern", ["{0..999999}", "{0..999}{0..999}"])
def test_braces_that_stand_for_too_much(pattern):
    with pytest.raises(AlitokError, match="limit is 100,000"):
        expand_braces(pattern)


@pytest.mark.parametrize(
    ("data", "name", "options"),
    [
        ("a.tar", "a.tar", {}),
        ("a?.tar", "a?.tar", {}),
        ("a?.tar?val=b?.tar", "a?.tar", {"val": "b?.tar"}),
        ("https://x/a.tar?sig=1&label=2", "https://x/a.tar?sig=1&label=2", {}),
        ("https://x/a.tar?sig=1?val=b", "https://x/a.tar?sig=1", {"val": "b"}),
        ("d.parquet?label=a&image=b", "d.parquet", {"label": "a", "image": "b"}),
        ("a?label=x=y", "a", {"label": "x=y"}),
    ],
)
def test_options_are_separated_from_the_name(data, name, options):
    assert with_options(data) == (name, options)


@pytest.mark.parametrize("text", ["label=a&label=b", "label", "=a", "label="])
def test_options_of_another_form(text):
    with pytest.raises(AlitokError, match="each once"):
        read_options("hf:a/b", text)


def test_addresses_and_patterns():
    assert is_url("https://x/y.tar")
    assert is_url("s3://bucket/x")
    assert not is_url("/a/b")
    assert not is_url("C:/b")
    assert is_pattern("a*")
    assert not is_pattern("a.tar")


def test_paths_come_in_order_and_once(tmp_path):
    for name in ("b-1", "b-0", "a-0"):
        (tmp_path / name).touch()
    names = lambda pattern: [path.name for path in expand_paths(f"{tmp_path}/{pattern}")]  # noqa: E731
    assert names("*-*") == ["a-0", "b-0", "b-1"]
    assert names("b-{0..1}") == ["b-0", "b-1"]
    assert names("{b,a}-*") == ["b-0", "b-1", "a-0"]
    assert names("{b-0,*-0}") == ["b-0", "a-0"]


def test_what_is_there_under_the_very_name_is_meant(tmp_path):
    for name in ("a[1]/x", "a1/x", "{a1,b}/x", "b/x"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    for pattern in ("a[1]/x", "a[1]/*", "{a1,b}/{x,x}", "{a1,b}"):
        (path,) = expand_paths(f"{tmp_path}/{pattern}")
        assert path.relative_to(tmp_path).parts[0] == pattern.partition("/")[0]
    assert len(expand_paths(f"{tmp_path}/{{b,a1}}/x")) == 2  # no folder is called this


@pytest.mark.parametrize("pattern", ["c-*", "b-{0..1}", "gone"])
def test_a_file_that_is_not_there_is_named(tmp_path, pattern):
    (tmp_path / "b-0").touch()
    with pytest.raises(AlitokError, match="There is no file"):
        expand_paths(f"{tmp_path}/{pattern}")


@pytest.mark.parametrize(
    ("names", "train", "val"),
    [
        ("a-0 a-1", "a-0 a-1", None),
        ("train-0 train-1", "train-0 train-1", None),
        ("train-0 val-0", "train-0", "val-0"),
        ("train-0 test_0 validation.tar", "train-0", "validation.tar"),
        ("train0 valid0", "train0", "valid0"),
        ("Train-0 Val-0", "Train-0", "Val-0"),
        ("trains-0 tests-0", "trains-0 tests-0", None),
        ("x-0 val-0", "x-0 val-0", None),
    ],
)
def test_files_are_divided_by_how_their_names_begin(names, train, val):
    found_train, found_val, notes = divide(map(Path, names.split()))
    assert found_train == [Path(name) for name in train.split()]
    assert found_val == (None if val is None else [Path(name) for name in val.split()])
    assert bool(notes) == ("test_0" in names)


def test_the_full_name_of_data_opens_it_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = str(tmp_path.resolve())
    for data, full in [
        ("digits", "digits"),
        ("pets", f"{here}/pets"),
        ("a-{0..3}.tar?val=b.tar", f"{here}/a-{{0..3}}.tar?val={here}/b.tar"),
        ("x.parquet?label=kind&streaming=1", f"{here}/x.parquet?label=kind&streaming=1"),
        ("saved?val=test", f"{here}/saved?val=test"),
        ("hf:a/b?split=x", "hf:a/b?split=x"),
        ("https://x/{0..1}.tar", "https://x/{0..1}.tar"),
    ]:
        assert full_name(data) == full
        assert full_name(full) == full
