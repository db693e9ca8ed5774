import io

import numpy as np
import torch
from PIL import Image

from alitok.core.images import grid, png_bytes, to_float, to_uint8


def test_pixels_are_rounded_not_truncated_and_round_trip():
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(values)), values)
    assert to_uint8(torch.tensor([0.9999, 0.5 / 255 + 1e-4, -0.2, 1.7])).tolist() == [255, 1, 0, 255]


def test_grid_places_every_image_where_it_belongs():
    images = np.random.default_rng(0).integers(0, 255, (5, 3, 4, 6), dtype=np.uint8)
    sheet = grid(images, columns=2, pad=1)
    assert sheet.shape == (3, 3 * 5 + 1, 2 * 7 + 1)
    for number, image in enumerate(images):
        row, column = divmod(number, 2)
        top, left = 1 + row * 5, 1 + column * 7
        assert np.array_equal(sheet[:, top : top + 4, left : left + 6], image)
    assert (sheet[:, 11:15, 8:14] == 255).all()  # the empty sixth place
    assert (sheet[:, 0] == 255).all()


def test_png_holds_the_pixels_enlarged():
    image = np.random.default_rng(0).integers(0, 255, (3, 4, 5), dtype=np.uint8)
    read = np.asarray(Image.open(io.BytesIO(png_bytes(image, scale=3))))
    assert read.shape == (12, 15, 3)
    assert np.array_equal(read[1::3, 1::3].transpose(2, 0, 1), image)
