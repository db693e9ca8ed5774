import pytest
import torch

from alitok.core import images as pixels
from alitok.core.errors import AlitokError
from alitok.sampling import decoding
from alitok.sampling.decoding import PixelDecoder


@pytest.fixture
def tokenizer(pipeline):
    return pipeline.tokenizer


@pytest.fixture
def codes():
    return torch.randint(20, (5, 12))


@pytest.fixture
def trial(monkeypatch):
    """Plays a machine that computes in bf16: `trial(seconds, error)` sets how long bf16 takes, where fp32 takes 1, and
    how far one of its pixels is off; returns the list of what has been tried."""

    def play(seconds, error):
        tried = []

        def timed(tokenizer, codes, precision):
            tried.append((precision, len(codes)))
            images = torch.full((len(codes), 3, 6, 6), 0.25)
            if precision == "bf16":
                images[-1, 2, 5, 5] -= error
            return images, seconds if precision == "bf16" else 1.0

        monkeypatch.setattr(decoding, "_timed", timed)
        monkeypatch.setattr(decoding, "_may_be_faster_in_half", lambda device: True)
        return tried

    return play


def in_bf16(tokenizer, codes):
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        return pixels.to_uint8(tokenizer.decode(codes))


def test_fp32_gives_what_the_last_decoder_gives(tokenizer, codes):
    decoder = PixelDecoder(tokenizer, "fp32")
    with torch.no_grad():
        expected = pixels.to_uint8(tokenizer.decode(codes, "stage2"))
    drawn = decoder(codes)
    assert drawn.dtype == torch.uint8
    assert torch.equal(drawn, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # what stands around it changes nothing
        assert torch.equal(decoder(codes), expected)
    assert decoder.precision == "fp32"


def test_bf16_can_be_forced_on_any_machine_and_is_another_precision(tokenizer, codes):
    decoder = PixelDecoder(tokenizer, "bf16")
    drawn, exact = decoder(codes), PixelDecoder(tokenizer, "fp32")(codes)
    assert torch.equal(drawn, in_bf16(tokenizer, codes))
    assert not torch.equal(drawn, exact)
    assert (drawn.int() - exact.int()).abs().max() < 10
    assert decoder.precision == "bf16"


@pytest.mark.parametrize(
    ("seconds", "error", "chosen"),
    [
        (0.5, 0.9 / 255, "bf16"),
        (0.5, 1.1 / 255, "fp32"),
        (0.5, -1.1 / 255, "fp32"),
        (0.5, float("nan"), "fp32"),
        (0.5, 0.0, "bf16"),
        (1.5, 0.0, "fp32"),
        (1.0, 0.0, "fp32"),
    ],
)
def test_bf16_is_chosen_where_it_is_faster_and_near_enough(tokenizer, codes, trial, seconds, error, chosen):
    trial(seconds, error)
    decoder = PixelDecoder(tokenizer)
    assert decoder.precision == "auto"
    drawn = decoder(codes)
    assert decoder.precision == chosen
    assert torch.equal(drawn, PixelDecoder(tokenizer, chosen)(codes))
    assert torch.equal(drawn, in_bf16(tokenizer, codes)) == (chosen == "bf16")


def test_precisions_are_tried_once_on_two_images_unless_one_is_given(tokenizer, codes, trial):
    tried = trial(0.5, 0.0)
    for precision in ("fp32", "bf16"):
        PixelDecoder(tokenizer, precision)(codes)
    decoder = PixelDecoder(tokenizer)
    assert decoder(codes[:0]).shape == (0, 3, 6, 6)
    assert (decoder.precision, tried) == ("auto", [])
    for _ in range(2):
        decoder(codes)
    assert sorted(tried) == [("bf16", 2), ("fp32", 2)]
    PixelDecoder(tokenizer)(codes[:1])
    assert sorted(tried[2:]) == [("bf16", 1), ("fp32", 1)]


def test_the_trial_decodes_the_codes_in_either_precision(tokenizer, codes):
    exact, first = decoding._timed(tokenizer, codes, "fp32")
    rounded, second = decoding._timed(tokenizer, codes, "bf16")
    with torch.no_grad():
        assert torch.equal(exact, tokenizer.decode(codes))
    assert torch.equal(pixels.to_uint8(rounded), in_bf16(tokenizer, codes))
    assert first > 0
    assert second > 0


def test_a_processor_and_gpus_without_bf16_try_nothing(tokenizer, codes, trial, monkeypatch):
    may_be_faster = decoding._may_be_faster_in_half
    tried = trial(0.5, 0.0)
    monkeypatch.setattr(decoding, "_may_be_faster_in_half", may_be_faster)
    decoder = PixelDecoder(tokenizer)
    decoder(codes)
    assert (decoder.precision, tried) == ("fp32", [])
    assert not may_be_faster(torch.device("mps"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert not may_be_faster(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert may_be_faster(torch.device("cuda"))


def test_bad_codes_are_rejected(tokenizer, codes):
    with pytest.raises(AlitokError, match="precision must be one of auto, fp32, bf16, not 'half'"):
        PixelDecoder(tokenizer, "half")
    for precision in ("auto", "fp32"):
        with pytest.raises(AlitokError, match=r"Codes must be integers \(B, 12\)"):
            PixelDecoder(tokenizer, precision)(codes[:, 1:])
    tokenizer.stage1 = tokenizer.stage2 = None
    with pytest.raises(AlitokError, match="has no decoder"):
        PixelDecoder(tokenizer)
