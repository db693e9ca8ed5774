import sys
import types

import pytest

from alitok.core.errors import AlitokError
from alitok.core.hub import is_hub_name, locate


def hub(monkeypatch, answer):
    calls = []

    def snapshot_download(name, local_files_only):
        calls.append((name, local_files_only))
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    module = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return calls


def test_a_local_directory_is_returned_unchanged(tmp_path, monkeypatch):
    calls = hub(monkeypatch, OSError("not to be asked"))
    assert locate(tmp_path) == tmp_path
    assert locate(str(tmp_path), part="tokenizer") == tmp_path
    (tmp_path / "pipeline.json").write_text("{}")
    assert locate(tmp_path, part="tokenizer") == tmp_path / "tokenizer"
    assert calls == []


@pytest.mark.parametrize("offline", [False, True])
def test_a_hub_name_is_downloaded_or_cached(tmp_path, monkeypatch, offline):
    calls = hub(monkeypatch, tmp_path)
    assert locate("somebody/alitok-256", offline=offline) == tmp_path
    assert calls == [("somebody/alitok-256", offline)]


@pytest.mark.parametrize("words", ["no network\nlong traceback", "Got: no network", "no network."])
def test_an_error_of_the_hub_is_one_line(monkeypatch, words):
    hub(monkeypatch, OSError(words))
    with pytest.raises(AlitokError, match=r"the hub did not return it: no network\.$") as error:
        locate("somebody/alitok-256")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a/b/c", "./somebody", "plain", "/no/such/place", "some body/x"])
def test_only_valid_names_are_requested_from_the_hub(monkeypatch, name):
    calls = hub(monkeypatch, OSError("not to be asked"))
    with pytest.raises(AlitokError, match="not a directory with a saved model"):
        locate(name)
    assert calls == []


def test_without_the_hub_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(AlitokError, match=r"alitok\[hub\]"):
        locate("somebody/alitok-256")


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("somebody/alitok-256", True),
        ("my.org/model", True),
        ("shards/*.tar", False),
        ("shards/train-{000..012}.tar", False),
        ("pics/x.parquet?label=k", False),
        ("hub:somebody/images", False),
        ("./somebody", False),
        ("../somebody", False),
        ("a/b/c", False),
        ("images", False),
    ],
)
def test_hub_names_differ_from_patterns_options_and_paths(name, is_one):
    assert is_hub_name(name) is is_one
