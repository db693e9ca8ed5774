import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from alitok.apps.convert.files import convert_released, convert_to_released, read_released
from alitok.apps.convert.options import ConvertReleasedOptions
from alitok.core.errors import AlitokError
from alitok.recipes.presets import imagenet_classes
from alitok.sampling.pipeline import Pipeline
from alitok.tokenizer import Tokenizer

GOLDEN = Path(__file__).parents[4] / "shared" / "official_v1"
needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason=f"the golden data is not at {GOLDEN}")


@pytest.fixture
def released(tmp_path):
    """The golden states as released: one pickle each, stage 1 in a wrapper."""
    for name in ("stage1", "stage2", "ar"):
        state = load_file(GOLDEN / f"{name}_state.safetensors")
        torch.save({"model_state": state, "step": 5} if name == "stage1" else state, tmp_path / f"{name}.pth")
    return tmp_path


def convert(tokenizers, generator, out):
    return convert_released(
        ConvertReleasedOptions(
            tokenizer=tuple(tokenizers), generator=generator, out=out, encoder_heads=4, decoder_heads=6, heads=4
        )
    )


@needs_golden
def test_a_pipeline_round_trips_bit_for_bit(released, tmp_path):
    out = tmp_path / "out"
    assert convert([released / "stage2.pth"], released / "ar.pth", out) == [out]
    pipeline = Pipeline.from_pretrained(out, device="cpu")
    assert pipeline(classes=[99], seed=0)[0].size == (256, 256)
    assert "stage2.pth, ar.pth" in (out / "README.md").read_text()
    written = convert_to_released(out, tmp_path / "back")
    assert [path.name for path in written] == ["AliTok.pth", "alitok_generator.bin"]
    for path, source in zip(written, ("stage2", "ar"), strict=True):
        state, back = load_file(GOLDEN / f"{source}_state.safetensors"), read_released(path)
        assert state.keys() == back.keys()
        assert all(torch.equal(state[name], back[name]) for name in state)


@needs_golden
def test_a_stage_1_training_file_is_unwrapped(released, tmp_path):
    convert([released / "stage1.pth"], None, tmp_path / "out")
    tokenizer = Tokenizer.from_pretrained(tmp_path / "out" / "tokenizer")
    assert (tokenizer.stage1 is not None, tokenizer.stage2) == (True, None)
    assert tokenizer.config.stage1.causal
    assert [path.name for path in convert_to_released(tmp_path / "out", tmp_path / "back")] == ["AliTok_stage1.pth"]


@needs_golden
def test_two_stages_of_one_tokenizer_are_joined_and_others_rejected(released, tmp_path):
    state = load_file(GOLDEN / "stage1_state.safetensors")
    second = load_file(GOLDEN / "stage2_state.safetensors")
    both = [released / "stage1.pth", released / "stage2.pth"]
    with pytest.raises(AlitokError, match="different encoders or codebooks"):
        convert(both, None, tmp_path / "out")
    shared = {name: value for name, value in state.items() if not name.startswith("decoder.")}
    torch.save({**second, **{k: v for k, v in shared.items() if k in second}}, released / "stage2.pth")
    convert(both, None, tmp_path / "out")
    tokenizer = Tokenizer.from_pretrained(tmp_path / "out" / "tokenizer")
    assert set(tokenizer.parts()) == {"encoder", "quantizer", "stage1", "stage2"}
    with pytest.raises(AlitokError, match="one of stage 1 and one of stage 2"):
        convert([both[0], both[0]], None, tmp_path / "out")


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_a_pickle_with_code_is_rejected_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(AlitokError, match="could run code"):
        read_released(tmp_path / "bomb.pth")
    assert not (tmp_path / "exploded").exists()


def test_truncated_missing_and_other_files_are_rejected(tmp_path):
    torch.save({"x": torch.zeros(10_000)}, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:20_000])
    with pytest.raises(AlitokError, match="truncated or not a weights file"):
        read_released(tmp_path / "cut.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(AlitokError, match="truncated or not a weights file"):
        read_released(tmp_path / "cut.safetensors")
    for content in (b"<html>not found</html>", b"version https://git-lfs", b"\x80\x02", b"", b"random" * 99):
        (tmp_path / "page.pth").write_bytes(content)
        with pytest.raises(AlitokError, match="truncated or not a weights file"):
            read_released(tmp_path / "page.pth")
    save_file({"x": torch.ones(3)}, tmp_path / "renamed.bin")
    assert read_released(tmp_path / "renamed.bin")["x"].sum() == 3
    with pytest.raises(AlitokError, match="does not exist"):
        read_released(tmp_path / "none.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(AlitokError, match="holds a list"):
        read_released(tmp_path / "list.pth")
    with pytest.raises(AlitokError, match="nothing to convert"):
        convert([], None, tmp_path / "out")
    with pytest.raises(AlitokError, match="neither tokenizer"):
        convert_to_released(tmp_path, tmp_path / "out")


def test_imagenet_has_its_thousand_class_names():
    names = imagenet_classes()
    assert len(names) == len(set(names)) == 1000
    assert (names[0], names[207], names[999]) == ("tench", "golden retriever", "toilet tissue")
