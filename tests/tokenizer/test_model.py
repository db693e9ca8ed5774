import dataclasses

import pytest
import torch

from alitok.core.errors import AlitokError
from alitok.tokenizer import Tokenizer, TokenizerConfig
from tiny import CONVOLUTIONAL, TOKENIZER

SMALL = dataclasses.replace(TOKENIZER, image_size=8, patch_size=2)


@pytest.fixture(params=[SMALL, CONVOLUTIONAL], ids=["transformer", "convolutional"])
def tokenizer(request):
    model = Tokenizer(request.param).eval()
    torch.nn.init.normal_(model.quantizer.codebook, std=0.1)
    return model


def test_shapes_of_the_paper_and_others():
    assert TokenizerConfig().sequence_length == 272
    assert TokenizerConfig(prefix=17).sequence_length == 273
    assert TokenizerConfig(image_size=512).prefix_length == 32
    for size in (4, 8, 12, 20):
        model = Tokenizer(dataclasses.replace(SMALL, image_size=size))
        images = torch.rand(2, 3, size, size)
        codes = model.encode(images)
        assert codes.shape == (2, size // 2 + (size // 2) ** 2)
        assert codes.dtype == torch.int64
        assert model.decode(codes).shape == images.shape


def test_reconstruct_is_decode_of_encode_for_either_decoder(tokenizer):
    images = torch.rand(2, 3, 8, 8)
    codes = tokenizer.encode(images)
    for stage in ("stage1", "stage2"):
        assert torch.equal(tokenizer.reconstruct(images, stage), tokenizer.decode(codes, stage))
        assert torch.allclose(tokenizer(images, stage).images, tokenizer.decode(codes, stage), atol=1e-6)
    assert torch.equal(tokenizer.decode(codes), tokenizer.decode(codes, "stage2"))
    assert not torch.equal(tokenizer.decode(codes, "stage1"), tokenizer.decode(codes, "stage2"))


def test_stage_1_has_gradients_in_the_encoder_and_stage_2_in_its_decoder_only(tokenizer):
    images = torch.rand(2, 3, 8, 8)
    tokenizer(images, "stage1").images.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in tokenizer.encoder.parameters())
    assert all(parameter.grad is None for parameter in tokenizer.stage2.parameters())
    tokenizer.zero_grad(set_to_none=True)
    tokenizer(images, "stage2").images.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in tokenizer.stage2.parameters())
    assert all(parameter.grad is None for parameter in tokenizer.encoder.parameters())


def test_it_saves_and_loads_with_its_decoders(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "t")
    names = {path.name for path in (tmp_path / "t").iterdir()}
    parts = {f"{part}.safetensors" for part in ("encoder", "quantizer", "stage1", "stage2")}
    assert names == {"README.md", "config.json", *parts}
    loaded = Tokenizer.from_pretrained(tmp_path / "t")
    images = torch.rand(2, 3, 8, 8)
    assert loaded.config == tokenizer.config
    assert tokenizer.encode(images).unique().numel() > 1
    for stage in ("stage1", "stage2"):
        assert torch.equal(loaded.reconstruct(images, stage), tokenizer.reconstruct(images, stage))
    assert loaded.codes_fingerprint() == tokenizer.codes_fingerprint()


def test_loading_reports_what_is_wrong(tokenizer, tmp_path):
    with pytest.raises(AlitokError, match="not a directory with a saved model"):
        Tokenizer.from_pretrained(tmp_path / "none")
    tokenizer.save_pretrained(tmp_path / "t")
    (tmp_path / "t" / "stage2.safetensors").unlink()
    with pytest.raises(AlitokError, match=r"stage2\.safetensors does not exist"):
        Tokenizer.from_pretrained(tmp_path / "t")


def test_the_fingerprint_covers_encoder_and_codebook_but_no_decoder(tokenizer):
    before = tokenizer.codes_fingerprint()
    with torch.no_grad():
        for parameter in (*tokenizer.stage1.parameters(), *tokenizer.stage2.parameters()):
            parameter += 1
        assert tokenizer.codes_fingerprint() == before
        tokenizer.quantizer.codebook[0] += 1
        changed = tokenizer.codes_fingerprint()
        next(tokenizer.encoder.parameters()).add_(1)
    assert len({before, changed, tokenizer.codes_fingerprint()}) == 3


def test_invalid_sizes_and_missing_decoders_are_rejected():
    with pytest.raises(ValueError, match="30 must be a multiple of patch_size 16"):
        TokenizerConfig(image_size=30)
    model = Tokenizer(dataclasses.replace(SMALL, stage2=None))
    with pytest.raises(ValueError, match=r"no stage2 decoder \(it has: stage1\)"):
        model.decode(torch.zeros(1, 20, dtype=torch.int64), "stage2")
    assert model.decode(torch.zeros(1, 20, dtype=torch.int64)).shape == (1, 3, 8, 8)


def test_images_and_codes_of_wrong_shape_or_dtype_are_rejected(tokenizer):
    for images in (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.rand(3, 8, 8), torch.rand(1, 3, 10, 8)):
        with pytest.raises(AlitokError, match=r"Images must be floats \(B, 3, 8, 8\)"):
            tokenizer.encode(images)
    images = torch.rand(2, 3, 8, 8)
    codes = tokenizer.encode(images)
    assert torch.equal(tokenizer.encode(images.double()), codes)
    assert torch.equal(tokenizer.decode(codes.to(torch.int16)), tokenizer.decode(codes))
    for wrong in (codes[0], codes[:, 1:], codes.float()):
        with pytest.raises(AlitokError, match=rf"Codes must be integers \(B, {codes.shape[1]}\)"):
            tokenizer.decode(wrong)
    with pytest.raises(AlitokError, match="no strange decoder"):
        tokenizer.decode(codes, "strange")
