"""Heat maps as files and as images."""

import io

import numpy as np
import pytest
from PIL import Image

from alitok.metrics.dependency import Raster
from alitok.report.heat import HeatMap, draw_maps, image_of_code, inline_map

RASTER = Raster(3, 2)


def heat(values, **changes):
    settings = {"rows": "code", "columns": "patch", "row_label": "r", "column_label": "c", "meaning": "m"}
    return HeatMap("a $title^", values, raster=RASTER, **{**settings, **changes})


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_a_map_is_a_png_whose_size_the_page_knows():
    one, two = (draw_maps([heat(np.eye(11, 9))] * count) for count in (1, 2))
    inline = inline_map(heat(np.eye(11, 9)))
    height, width = pixels(one).shape[:2]
    assert (inline.width, inline.height) == (round(width * 92 / 160), round(height * 92 / 160))
    assert inline.address.startswith("data:image/png;base64,")
    assert pixels(two).shape[1] == 2 * width
    assert draw_maps([heat(np.eye(11, 9))]) == one, "the same for the same map"


def test_bright_cells_stand_where_the_values_are():
    empty, values = np.zeros((11, 9)), np.zeros((11, 9))
    values[10, 0] = 1  # bottom left
    difference = np.abs(pixels(draw_maps([heat(values)])) - pixels(draw_maps([heat(empty, limit=1.0)]))).sum(2)
    rows, columns = np.nonzero(difference > 300)
    height, width = difference.shape
    assert rows.min() > 0.7 * height
    assert columns.max() < 0.3 * width


@pytest.mark.parametrize("grid", [1, 2, 16, 40])
@pytest.mark.parametrize("prefix", [0, 3])
@pytest.mark.parametrize(("rows", "columns"), [("code", "patch"), ("patch", "code"), ("code", "code")])
def test_grids_of_all_sizes_are_drawn_and_what_is_not_known_does_no_harm(grid, prefix, rows, columns):
    raster = Raster(grid, prefix)
    size = {"code": raster.length, "patch": raster.patches}
    values = np.random.default_rng(0).random((size[rows], size[columns]))
    values[0] = np.nan
    shown = HeatMap("", values, rows, columns, "", "", "", raster)
    assert len(pixels(draw_maps([shown]))) > 100
    nothing = HeatMap("", np.full_like(values, np.nan), rows, columns, "", "", "", raster)
    assert nothing.top > 0
    assert len(pixels(draw_maps([nothing]))) > 100


def test_the_image_of_a_code_shows_its_patches_where_they_lie():
    values = np.zeros(9)
    values[5], values[7] = 1.0, 0.25
    image = image_of_code(values, 3, 3, top=1.0).astype(int)
    assert image.shape == (3, 36, 36)
    cells = image.reshape(3, 3, 12, 3, 12)[:, :, 5, :, 5].sum(0).ravel()  # the middle of each
    assert cells.argsort()[-2:].tolist() == [7, 5]
    assert (cells[[0, 1, 2, 3, 4, 6, 8]] == cells[0]).all()
    corners = image.reshape(3, 3, 12, 3, 12)[:, :, 0, :, 0].transpose(1, 2, 0).reshape(9, 3)
    assert corners[3].tolist() == [0x35, 0xD0, 0xE8], "the frame of its own patch"
    assert (corners[0] == image[:, 5, 5]).all()
