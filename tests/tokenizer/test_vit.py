import pytest
import torch

from alitok.tokenizer import Decoder, DecoderConfig, Encoder, EncoderConfig
from alitok.tokenizer.vit import PixelHead

GRID, PATCH, PREFIX, CODE = 4, 2, 4, 6
SHAPE = {"grid": GRID, "patch_size": PATCH, "prefix": PREFIX, "code_width": CODE}


def with_large_weights(model):
    """Large enough for every dependency to show in the pixels; at initial scale some vanish in rounding."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def decoder(**options):
    return with_large_weights(Decoder(DecoderConfig(width=16, layers=2, heads=2, **options), **SHAPE))


def changed_cells(before, after):
    """Grid cells (raster order) whose pixels differ between two images (1, 3, h, h)."""
    different = (before != after).any(1)[0].unfold(0, PATCH, PATCH).unfold(1, PATCH, PATCH)
    return set(different.flatten(2).any(-1).flatten().nonzero()[:, 0].tolist())


def test_a_causal_decoder_decodes_a_patch_from_codes_up_to_its_own():
    model = decoder(causal=True, extra_tokens=1, prefix_head=True)
    vectors = torch.randn(1, PREFIX + GRID * GRID, CODE)
    with torch.no_grad():
        base = model(vectors)
        for position in range(PREFIX + GRID * GRID):
            disturbed = vectors.clone()
            disturbed[:, position] += 1
            result = model(disturbed)
            cells = changed_cells(base.images, result.images)
            first = max(position - PREFIX, 0)
            assert cells == set(range(first, GRID * GRID))
            if position >= PREFIX:
                assert torch.equal(base.prefix_strip, result.prefix_strip)
            else:
                strip = (base.prefix_strip != result.prefix_strip).any(1).any(1)[0].view(PREFIX, PATCH).any(1)
                assert strip.nonzero()[:, 0].tolist() == list(range(position, PREFIX))


def test_a_bidirectional_decoder_reads_all_codes():
    vectors = torch.randn(1, PREFIX + GRID * GRID, CODE)
    for reads_prefix in (True, False):
        model = decoder(extra_tokens=3, reads_prefix=reads_prefix)
        with torch.no_grad():
            base = model(vectors).images
            for position in range(PREFIX + GRID * GRID):
                disturbed = vectors.clone()
                disturbed[:, position] += 1
                cells = changed_cells(base, model(disturbed).images)
                read = reads_prefix or position >= PREFIX
                assert cells == (set(range(GRID * GRID)) if read else set())


def test_pixel_head_orders_pixels_row_column_channel():
    head = PixelHead(width=5, patch_size=2)
    x = torch.randn(1, 6, 5)  # 2 rows of 3 patches
    image = head(x, rows=2)
    flat = x @ head.to_pixels.weight.T + head.to_pixels.bias
    raw = torch.empty(3, 4, 6)
    for row in range(2):
        for column in range(3):
            for r in range(2):
                for c in range(2):
                    for channel in range(3):
                        value = flat[0, row * 3 + column, (r * 2 + c) * 3 + channel]
                        raw[channel, row * 2 + r, column * 2 + c] = value
    mixed = torch.einsum("oc,chw->ohw", head.mix.weight[:, :, 0, 0], raw) + head.mix.bias[:, None, None]
    assert torch.allclose(image[0], mixed.sigmoid(), atol=1e-6)


@pytest.mark.parametrize("prefix", [0, 2, 4, 5])
def test_codes_of_a_causal_encoder_see_no_later_patch(prefix):
    shape = {**SHAPE, "prefix": prefix}
    encoder = with_large_weights(Encoder(EncoderConfig(width=16, layers=3, heads=2, causal=True), **shape))
    images = torch.rand(1, 3, GRID * PATCH, GRID * PATCH)
    cell_of = [max(i - max(prefix - GRID, 0), 0) for i in range(prefix)] + list(range(GRID * GRID))
    with torch.no_grad():
        base = encoder(images)
        for cell in range(GRID * GRID):
            row, column = divmod(cell, GRID)
            disturbed = images.clone()
            disturbed[:, :, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] += 0.5
            changed = (encoder(disturbed) != base).any(-1)[0]
            assert changed.tolist() == [own >= cell for own in cell_of]


def test_codes_of_a_bidirectional_encoder_see_all_patches():
    encoder = Encoder(EncoderConfig(width=16, layers=1, heads=2), **SHAPE).eval()
    images = torch.rand(1, 3, GRID * PATCH, GRID * PATCH)
    disturbed = images.clone()
    disturbed[:, :, -1, -1] += 0.5
    with torch.no_grad():
        assert (encoder(images) != encoder(disturbed)).any(-1).all()


def test_a_prefix_head_without_prefix_codes_is_rejected():
    with pytest.raises(ValueError, match="needs reads_prefix"):
        DecoderConfig(prefix_head=True, reads_prefix=False)


def test_a_new_pixel_head_passes_its_pixels_through():
    model = Decoder(DecoderConfig(width=16, layers=1, heads=2, prefix_head=True), **SHAPE)
    for head in (model.head, model.prefix_head):
        assert torch.equal(head.mix.weight[:, :, 0, 0], torch.eye(3))
