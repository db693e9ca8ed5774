from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from alitok.apps.convert.layout import tokenizer_from_released
from alitok.core.errors import AlitokError
from alitok.tokenizer import DecoderConfig, EncoderConfig, RowDecoder, Tokenizer, TokenizerConfig

GRID, PATCH = 4, 2
RELEASED = Path(__file__).parents[1] / "released_small"
LAYOUTS = {
    "paper": (None, {"extra_tokens": 1, "prefix_head": True}),
    "released": (GRID + 1, {"extra_tokens": 1, "prefix_head": True}),
    "several leading tokens": (None, {"extra_tokens": 3}),
    "no leading token": (2, {"extra_tokens": 0}),
    "no prefix": (0, {"extra_tokens": 1}),
    "nothing before the grid": (0, {"extra_tokens": 0}),
    "prefix unread": (3, {"extra_tokens": 2, "reads_prefix": False}),
    "prefix unread, nothing before the grid": (3, {"extra_tokens": 0, "reads_prefix": False}),
}


def tokenizer(prefix=None, **options):
    decoder = DecoderConfig(width=16, layers=2, heads=2, **{"causal": True, **options})
    config = TokenizerConfig(
        image_size=GRID * PATCH,
        patch_size=PATCH,
        prefix=prefix,
        codebook_size=32,
        code_width=6,
        encoder=EncoderConfig(width=16, layers=1, heads=2),
        stage1=decoder,
        stage2=None,
    )
    model = Tokenizer(config).eval()
    for parameter in model.parameters():  # large enough for each code to show in the pixels
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def random_codes(model, batch):
    return torch.randint(model.config.codebook_size, (batch, model.config.sequence_length))


def splits(prefix, length):
    """Sizes of the portions in which a sequence arrives."""
    return {
        "rows": [prefix, *[GRID] * GRID],
        "single codes": [1] * length,
        "all at once": [length],
        "prefix with the first row": [prefix + GRID, *[GRID] * (GRID - 1)],
        "across rows and out of the prefix": [prefix // 2, prefix - prefix // 2 + GRID + 1, 0, 2 * GRID, 2, GRID - 3],
        "some, one, the rest": [5, 1, length - 6],
    }


def streamed(model, codes, sizes):
    assert sum(sizes) == codes.shape[1]
    decoder = RowDecoder(model, len(codes))
    return [decoder.extend(portion) for portion in codes.split(sizes, dim=1)]


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 3])
def test_rows_equal_the_whole_image_and_come_as_soon_as_their_codes(layout, batch):
    prefix, options = LAYOUTS[layout]
    model = tokenizer(prefix, **options)
    codes = random_codes(model, batch)
    whole = model.decoder("stage1")(model.quantizer.lookup(codes)).images
    assert whole[0].std() > 0.02
    for sizes in splits(model.config.prefix_length, model.config.sequence_length).values():
        parts = streamed(model, codes, sizes)
        assert torch.allclose(torch.cat(parts, dim=2), whole, atol=1e-5)
        received = decoded = 0
        for size, part in zip(sizes, parts, strict=True):
            received += size
            rows = max(received - model.config.prefix_length, 0) // GRID
            assert part.shape == (batch, 3, (rows - decoded) * PATCH, GRID * PATCH)
            assert part.dtype == whole.dtype
            decoded = rows


@torch.no_grad()
def test_the_released_layout_decodes_its_recorded_images():
    expected = load_file(RELEASED / "expected.safetensors")
    model = tokenizer_from_released(load_file(RELEASED / "stage1.safetensors"), encoder_heads=2, decoder_heads=2)
    codes, grid = expected["codes"], model.config.grid
    parts = streamed(model, codes, [model.config.prefix_length, *[grid] * grid])
    assert torch.allclose(torch.cat(parts, dim=2), expected["stage1_reconstruction"], atol=1e-5)


def test_a_row_is_final():
    model = tokenizer(extra_tokens=1)
    codes = random_codes(model, 1)
    others = (codes + 1) % model.config.codebook_size
    sizes = [GRID] * (GRID + 1)
    base = streamed(model, codes, sizes)
    for row in range(1, GRID + 1):
        first = row * GRID + GRID  # the first code after the row
        changed = streamed(model, torch.cat([codes[:, :first], others[:, first:]], dim=1), sizes)
        assert all(torch.equal(base[i], changed[i]) for i in range(row + 1))
        assert all(not torch.equal(base[i], changed[i]) for i in range(row + 1, GRID + 1))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_position_passes_the_network_once(layout):
    prefix, options = LAYOUTS[layout]
    model = tokenizer(prefix, **options)
    decoder = model.decoder("stage1")
    passed = {module: [] for module in (*decoder.blocks, decoder.head)}
    for module in passed:
        module.register_forward_pre_hook(lambda module, args: passed[module].append(args[0].shape[1]))
    streamed(model, random_codes(model, 1), [model.config.prefix_length, *[GRID] * GRID])
    for block in decoder.blocks:
        assert sum(passed[block]) == len(decoder.positions)
        assert passed[block][-GRID + 1 :] == [GRID] * (GRID - 1)
    assert passed[decoder.head] == [GRID] * GRID


@torch.no_grad()
def test_rows_are_decoded_in_the_dtype_of_the_weights():
    model = tokenizer(extra_tokens=1).double()
    codes = random_codes(model, 2)
    whole = model.decode(codes)
    assert whole.dtype == torch.float64
    for sizes in ([GRID] * (GRID + 1), [1] * codes.shape[1]):
        rows = torch.cat(streamed(model, codes, sizes), dim=2)
        assert torch.allclose(rows, whole, rtol=0, atol=1e-13)
    model = model.bfloat16()
    rows = torch.cat(streamed(model, codes, [GRID] * (GRID + 1)), dim=2)
    assert rows.dtype == torch.bfloat16
    assert torch.allclose(rows.double(), whole, atol=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = torch.cat(streamed(model.float(), codes, [GRID] * (GRID + 1)), dim=2)
    assert rows.dtype == torch.float32
    assert torch.allclose(rows.double(), whole, atol=0.1)


def test_images_of_a_batch_and_decoders_are_independent():
    model = tokenizer(extra_tokens=1)
    codes = random_codes(model, 2)
    both = RowDecoder(model, 2)
    apart = [RowDecoder(model, 1), RowDecoder(model, 1)]
    for portion in codes.split(GRID, dim=1):
        alone = torch.cat([decoder.extend(portion[i : i + 1]) for i, decoder in enumerate(apart)])
        assert torch.allclose(both.extend(portion), alone, atol=1e-6)


def test_decoders_that_are_not_causal_are_rejected():
    with pytest.raises(AlitokError, match="not causal"):
        RowDecoder(tokenizer(causal=False), 1)
    bare = tokenizer()
    bare.stage1 = None
    with pytest.raises(AlitokError, match="no stage1 decoder"):
        RowDecoder(bare, 1)
    with pytest.raises(AlitokError, match="batch must be at least 1, not 0"):
        RowDecoder(tokenizer(), 0)


def test_invalid_codes_are_rejected_and_change_nothing():
    model = tokenizer(extra_tokens=1)
    codes = random_codes(model, 2)
    decoder = RowDecoder(model, 2)
    decoder.extend(codes[:, :GRID])
    for wrong in (codes[:1], codes[0], torch.rand(2, 3), codes[None], torch.tensor(1)):
        with pytest.raises(AlitokError, match=r"Codes must be integers \(2, n\)"):
            decoder.extend(wrong)
    with pytest.raises(AlitokError, match="These images have 16 of 20 codes left, fewer than the 17 given"):
        decoder.extend(codes[:, :17])
    with torch.no_grad():
        assert torch.allclose(decoder.extend(codes[:, GRID:]), model.decode(codes), atol=1e-5)
    with pytest.raises(AlitokError, match="0 of 20 codes left"):
        decoder.extend(codes[:, :1])
    assert decoder.extend(codes[:, :0]).shape == (2, 3, 0, GRID * PATCH)
