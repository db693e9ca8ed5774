import numpy as np

from alitok.report.images import ERROR_LIMIT, error_map, error_scale
from alitok.report.model import Images, Section


def images(count, seed, size=16):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), dtype=np.uint8)


def test_error_map_is_the_mean_absolute_error_as_a_colour():
    from matplotlib import colormaps

    original, made = images(1, 1)[0], images(1, 2)[0]
    original[:, 0, 0] = made[:, 0, 0] = 77
    original[:, 0, 1], made[:, 0, 1] = (0, 255, 10), (255, 0, 10)  # opposite differences do not cancel
    original[:, 0, 2], made[:, 0, 2] = (100, 100, 100), (110, 90, 100)
    found = error_map(original, made)
    assert found.shape == original.shape
    assert found.dtype == np.uint8
    for row in range(16):
        for column in range(16):
            errors = [abs(int(original[c, row, column]) - int(made[c, row, column])) for c in range(3)]
            fraction = min(1.0, sum(errors) / 3 / 255 / ERROR_LIMIT)
            colour = np.array(colormaps["magma"](round(fraction * 255))[:3]) * 255
            assert np.abs(found[:, row, column] - colour).max() < 1
    assert found[:, 0, 0].max() < 10  # black
    assert found[:, 0, 1].min() > 180  # the brightest
    assert np.array_equal(found, error_map(made, original))


def test_error_maps_have_one_scale_that_the_page_states(page, read):
    # A small error beside no larger one is not stretched: it has its colour of the strip.
    original = np.zeros((3, 4, 4), np.uint8)
    faint, strong = error_map(original, original + 16), error_map(original, original + 200)
    shown = read(page(Section("Errors", (Images((error_scale(),)),))))
    strip = shown.pixels()[0][:, 0]
    assert np.array_equal(faint[:, 0, 0], strip[:, round(16 / 255 / 0.25 * 255)])
    assert np.array_equal(strong[:, 0, 0], strip[:, -1])
    assert strip.astype(float).mean(0).argmax() == strip.shape[1] - 1
    assert (np.diff(strip.astype(float).T @ [0.299, 0.587, 0.114]) > -1).all()  # brightness shows the order
    assert "0.25 or more" in shown.text
    assert error_scale().alt == "colours of errors, from 0 to 0.25"
