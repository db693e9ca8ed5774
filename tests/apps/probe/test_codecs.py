"""Tokenizers to probe: ours from a directory, others from a module."""

import sys

import pytest
import torch

from alitok.apps.probe.codecs import open_tokenizer
from alitok.core.errors import AlitokError
from alitok.tokenizer import DecoderConfig, EncoderConfig, Tokenizer, TokenizerConfig
from alitok.tokenizer.model import TokenizerCodec

CPU = torch.device("cpu")
MODULE = """
import torch

class Codec:
    image_size, codebook_size = 12, 9

    def encode(self, images):
        import found_late
        return torch.zeros(len(images), 4, dtype=torch.int64)

    def decode(self, codes):
        return torch.zeros(len(codes), 3, 12, 12)

class Network(torch.nn.Module):
    image_size, grid = 8, 2

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Dropout()

    encode, decode = Codec.encode, Codec.decode

made = Codec()

def make():
    return made

def unmade():
    raise RuntimeError("no weights here")

class Sized(Codec):
    image_size = "large"

class Unsized:
    encode, decode = Codec.encode, Codec.decode

class Holder:
    inner = made

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module of this test's own, in the current folder."""
    name = f"theirs_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / "found_late.py").write_text("")
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)
    sys.modules.pop("found_late", None)


def ask(name, image_size=None, grid=None):
    return open_tokenizer(name, image_size=image_size, grid=grid, device=CPU)


@pytest.mark.parametrize("name", ["Codec", "made", "make", "Holder.inner"])
def test_an_object_a_class_and_a_function_are_accepted(module, name):
    before = list(sys.path)
    with ask(f"{module}:{name}") as found:
        assert (found.image_size, found.grid, found.codebook_size) == (12, None, 9)
        assert list(found.decoders) == ["decoder"]
        assert found.codec.encode(torch.zeros(2, 3, 12, 12)).shape == (2, 4), "what it imports later is found too"
        assert found.facts["module's file"] == f"{module}.py"
        assert len(found.facts["module's hash"]) == 16
    assert sys.path == before


def test_a_torch_module_is_put_into_evaluation_mode_and_options_win(module):
    with ask(f"{module}:Network", image_size=24, grid=1) as found:
        assert (found.image_size, found.grid, found.codebook_size) == (24, 1, None)
        assert not found.codec.training
    with ask(f"{module}:Network") as found:
        assert (found.image_size, found.grid) == (8, 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "no_such_module_here:x",
            "There is no Python module no_such_module_here, neither installed nor in this folder",
        ),
        ("MODULE.deeper:x", "There is no Python module|is not a package"),
        ("MODULE:made_", "has no 'made_'; did you mean made"),
        ("MODULE:Holder.other", "has no 'Holder.other'"),
        ("MODULE:number", "has no method encode, and is not a class or function"),
        ("MODULE:unmade", "without arguments fails with RuntimeError: no weights here"),
        ("MODULE:Sized", "image_size of .*:Sized must be a positive integer, not 'large'"),
        ("MODULE:Unsized", "has no attribute image_size; .* --image-size"),
        ("no/such/directory", "not a directory with a saved model|There is no directory"),
    ],
)
def test_a_tokenizer_that_cannot_be_loaded_is_an_error(module, name, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(AlitokError, match=message), ask(name.replace("MODULE", module)):
        pass


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_thing", "Importing .* fails: No module named 'no_such_thing'"),
        ("1 / 0", "fails with ZeroDivisionError"),
        ("def", "fails with SyntaxError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_an_error(tmp_path, monkeypatch, text, message):
    name = f"broken_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    with pytest.raises(AlitokError, match=message), ask(f"{name}:x"):
        pass
    assert sys.path == before


def test_ours_has_its_own_sizes_and_a_decoder_for_each_stage(tmp_path):
    small = {"width": 8, "layers": 1, "heads": 2}
    tokenizer = Tokenizer(
        TokenizerConfig(
            image_size=8,
            patch_size=4,
            codebook_size=5,
            code_width=2,
            encoder=EncoderConfig(**small),
            stage1=DecoderConfig(**small, causal=True),
            stage2=DecoderConfig(**small),
        )
    ).eval()
    tokenizer.save_pretrained(tmp_path / "a:b")
    with ask(str(tmp_path / "a:b")) as found:
        assert (found.image_size, found.grid, found.codebook_size) == (8, 2, 5)
        assert list(found.decoders) == ["stage1", "stage2"]
        assert found.facts["codes"] == tokenizer.codes_fingerprint()
        codes = torch.randint(0, 5, (3, 6))
        for stage, codec in found.decoders.items():
            assert isinstance(codec, TokenizerCodec)
            assert torch.equal(codec.decode(codes), tokenizer.decode(codes, stage))
        assert torch.equal(found.codec.decode(codes), tokenizer.decode(codes))
    for options in ({"image_size": 8}, {"grid": 2}):
        with pytest.raises(AlitokError, match="has its own sizes; leave --"), ask(str(tmp_path / "a:b"), **options):
            pass
