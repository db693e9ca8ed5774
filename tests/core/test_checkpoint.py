import errno

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from alitok.core import checkpoint
from alitok.core.checkpoint import (
    ModelCard,
    fingerprint,
    load_head,
    load_parts,
    load_strictly,
    load_tensors,
    require_same,
    save_model,
    save_tensors,
)
from alitok.core.errors import AlitokError


def test_every_fault_of_a_wrong_state_is_named_at_once():
    module = nn.Linear(3, 2)
    with pytest.raises(AlitokError, match=r"weight is \(2, 4\), not \(2, 3\); missing bias; unexpected extra\.$"):
        load_strictly(module, {"weight": torch.zeros(2, 4), "extra": torch.zeros(1)}, "a.safetensors")


def test_of_another_models_many_tensors_a_few_are_named_and_the_others_counted():
    wide, narrow = (nn.Sequential(*(nn.Linear(width, width) for _ in range(20))) for width in (3, 2))
    tensors = narrow.state_dict() | {f"other{number}": torch.zeros(1) for number in range(5)}
    said = r"is \(2, 2\), not \(3, 3\); .*; and 37 more; unexpected .*; and 2 more\.$"
    with pytest.raises(AlitokError, match=said) as told:
        load_strictly(wide, tensors, "a.safetensors")
    assert str(told.value).count(" is ") == str(told.value).count("unexpected") == 3
    with pytest.raises(AlitokError) as told:
        require_same(wide.state_dict(), narrow.state_dict(), "a.pth")
    assert str(told.value).count(" is ") == 40


def test_a_truncated_weights_file_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"x": torch.arange(1000.0)})
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(AlitokError, match="truncated or not a safetensors"):
        load_tensors(path)


def test_a_full_disk_is_an_os_error_and_leaves_the_old_file(tmp_path, monkeypatch):
    def full(tensors, path):
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    save_tensors(tmp_path / "a.safetensors", {"x": torch.ones(1)})
    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space") as error:
        save_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(1)})
    assert error.value.errno == errno.ENOSPC
    assert load_tensors(tmp_path / "a.safetensors")["x"].item() == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_model_directory_round_trip_and_wrong_kind(tmp_path):
    module, other = nn.Linear(3, 2), nn.Linear(3, 2)
    save_model(
        tmp_path / "m", kind="a", config={"size": 3}, parts={"whole": module}, class_names=["x"], card=ModelCard("m")
    )
    head = load_head(tmp_path / "m" / "config.json", "a")
    assert (head["config"], head["class_names"]) == ({"size": 3}, ["x"])
    load_parts(tmp_path / "m", {"whole": other})
    assert torch.equal(module.weight, other.weight)
    with pytest.raises(AlitokError, match="kind 'a', not 'b'"):
        load_head(tmp_path / "m" / "config.json", "b")


def test_fingerprint_follows_values_shapes_and_config():
    base = {"a": torch.arange(6.0), "n": torch.tensor(3)}
    prints = {
        fingerprint(base, {"size": 1}),
        fingerprint(base, {"size": 2}),
        fingerprint({**base, "a": torch.arange(6.0).view(2, 3)}, {"size": 1}),
        fingerprint({**base, "a": torch.arange(6.0) + 1e-6}, {"size": 1}),
        fingerprint({**base, "n": torch.tensor(4)}, {"size": 1}),
    }
    assert len(prints) == 5
    assert fingerprint({key: value.clone() for key, value in base.items()}, {"size": 1}) in prints
