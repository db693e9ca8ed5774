import io

import numpy as np
import pytest
from PIL import Image

from alitok.data.crops import centre_crop, five_crops, random_crop, stack_views, to_array, to_rgb

RNG = np.random.default_rng(0)


def noise(width, height, bands=3):
    return RNG.integers(0, 256, (height, width, bands), dtype=np.uint8)


def bicubic_axis(values, length):
    """Resample axis 0 by the cubic convolution kernel (a = -0.5), widened when shrinking; edges renormalised."""
    scale = len(values) / length
    width = max(scale, 1.0)
    centres = (np.arange(length)[:, None] + 0.5) * scale
    x = np.abs((np.arange(len(values))[None] + 0.5 - centres) / width)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    weights /= weights.sum(axis=1, keepdims=True)
    return np.tensordot(weights, values, axes=1)


def bicubic(values, width, height):
    across = bicubic_axis(values.swapaxes(0, 1).astype(float), width).round().clip(0, 255).swapaxes(0, 1)
    return bicubic_axis(across, height).round().clip(0, 255)


def halve(values):
    """Means of neighbours, across and then down, rounded to 8 bits each time."""
    across = np.floor((values[:, 0::2] + values[:, 1::2]) / 2 + 0.5)
    return np.floor((across[0::2] + across[1::2]) / 2 + 0.5)


@pytest.mark.parametrize(
    ("width", "height", "halvings"), [(96, 64, 2), (64, 80, 2), (30, 24, 0), (20, 11, 0), (16, 16, 0), (44, 36, 1)]
)
def test_centre_crop_equals_halving_by_mean_then_bicubic(width, height, halvings):
    size = 16
    pixels = noise(width, height)
    expected = pixels.astype(float)
    for _ in range(halvings):
        expected = halve(expected)
    assert size <= min(expected.shape[:2]) < 2 * size or halvings == 0
    h, w = expected.shape[:2]
    expected = bicubic(expected, round(w * size / min(w, h)), round(h * size / min(w, h)))
    top, left = (expected.shape[0] - size) // 2, (expected.shape[1] - size) // 2
    expected = expected[top : top + size, left : left + size]
    actual = np.asarray(centre_crop(Image.fromarray(pixels), size)).astype(float)
    assert actual.shape == (size, size, 3)
    assert np.abs(actual - expected).max() <= 1


def test_random_crop_is_a_window_of_the_resized_image_and_reaches_every_position():
    size, pixels = 10, noise(13, 11)  # round(1.1 * 10) = 11: no resizing, positions 4 x 2
    windows = {}
    for top in range(2):
        for left in range(4):
            windows[pixels[top : top + size, left : left + size].tobytes()] = (top, left)
    rng = np.random.default_rng(1)
    drawn = [windows[np.asarray(random_crop(Image.fromarray(pixels), size, rng)).tobytes()] for _ in range(800)]
    counts = [drawn.count(position) for position in windows.values()]
    assert min(counts) > 60
    assert max(counts) < 140


def test_random_crop_resizes_the_short_side_to_the_scale():
    pixels = noise(90, 60)
    rows, columns = 24, 36  # short side round(1.5 * 16)
    halved = halve(pixels.astype(float))
    resized = bicubic(halved, columns, rows)
    crop = np.asarray(random_crop(Image.fromarray(pixels), 16, np.random.default_rng(2), scale=1.5)).astype(float)
    errors = [
        np.abs(crop - resized[top : top + 16, left : left + 16]).max()
        for top in range(rows - 15)
        for left in range(columns - 15)
    ]
    assert min(errors) <= 1
    assert sorted(errors)[1] > 20


@pytest.mark.parametrize(("width", "height"), [(22, 22), (22, 33), (40, 22), (27, 22), (22, 29)])
def test_five_crops_are_those_of_torchvision(width, height):
    functional = pytest.importorskip("torchvision.transforms.functional")
    image = Image.fromarray(noise(width, height))  # the short side is round(1.1 * 20) already
    pairs = list(zip(five_crops(image, 20), functional.five_crop(image, [20, 20]), strict=True))
    assert all((np.asarray(mine) == np.asarray(theirs)).all() for mine, theirs in pairs)
    mirrored = functional.ten_crop(image, [20, 20])[5:]  # of the mirrored image, so left and right change places
    for mine, place in zip(five_crops(image, 20)[:4], (1, 0, 3, 2), strict=True):
        assert (np.asarray(mine)[:, ::-1] == np.asarray(mirrored[place])).all()


def test_five_crops_resize_the_short_side_to_the_scale():
    pixels = noise(90, 60)
    resized = bicubic(halve(pixels.astype(float)), 36, 24)  # short side round(1.5 * 16)
    crops = [np.asarray(crop).astype(float) for crop in five_crops(Image.fromarray(pixels), 16, scale=1.5)]
    for crop, (top, left) in zip(crops, [(0, 0), (0, 20), (8, 0), (8, 20), (4, 10)], strict=True):
        assert np.abs(crop - resized[top : top + 16, left : left + 16]).max() <= 1


def test_mirrored_views_follow_the_others_in_their_order():
    views = [RNG.integers(0, 256, (3, 4, 5), dtype=np.uint8) for _ in range(3)]
    assert (stack_views(views, mirrored=False) == np.stack(views)).all()
    both = stack_views(views, mirrored=True)
    assert both.shape == (6, 3, 4, 5)
    assert both.flags.c_contiguous
    for number, view in enumerate(views):
        assert (both[number] == view).all()
        assert all((both[3 + number, :, :, x] == view[:, :, 4 - x]).all() for x in range(5))


def test_to_array_is_channels_first():
    pixels = noise(5, 4)
    array = to_array(Image.fromarray(pixels))
    assert array.shape == (3, 4, 5)
    assert array.flags.c_contiguous
    assert (array[1] == pixels[:, :, 1]).all()


def rgb(image):
    converted = to_rgb(image)
    assert converted.mode == "RGB"
    return np.asarray(converted).astype(int)


def through_file(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return Image.open(io.BytesIO(buffer.getvalue()))


def test_grey_and_bilevel():
    grey = noise(6, 5, 1)[:, :, 0]
    assert (rgb(Image.fromarray(grey)) == grey[:, :, None]).all()
    bits = grey > 127
    assert (rgb(Image.fromarray(bits)) == bits[:, :, None] * 255).all()


@pytest.mark.parametrize("mode", ["I;16", "I", "I;16B"])
def test_16_bit_grey_is_scaled_not_clipped(mode):
    values = np.arange(0, 65536, 257 // 2, dtype=np.uint16)[:500].reshape(20, 25)
    values[-1, -1] = 65535
    image = Image.fromarray(values if mode == "I;16" else values.astype(">u2" if mode == "I;16B" else np.int32))
    assert image.mode == mode
    assert (rgb(image) == ((values.astype(int) * 2 + 257) // 514)[:, :, None]).all()


def test_16_bit_png_from_a_file():
    values = np.array([[0, 257 * 100, 65535]], np.uint16)
    assert rgb(through_file(Image.fromarray(values), "PNG"))[0, :, 0].tolist() == [0, 100, 255]


def test_float_grey_in_either_range():
    values = np.array([[0.0, 0.25, 1.0]], np.float32)
    assert rgb(Image.fromarray(values))[0, :, 0].tolist() == [0, 64, 255]
    assert rgb(Image.fromarray(values * 200))[0, :, 0].tolist() == [0, 50, 200]


def test_palette():
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([2, 0, 1])
    assert rgb(image).tolist() == [[[70, 80, 90], [10, 20, 30], [40, 50, 60]]]


def test_transparent_palette_entry_becomes_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    assert rgb(through_file(image, "PNG", transparency=0)).tolist() == [[[255, 255, 255], [40, 50, 60]]]


@pytest.mark.parametrize("bands", [2, 4])
def test_alpha_is_composited_on_white(bands):
    pixels = noise(16, 16, bands)
    colour, alpha = pixels[:, :, :-1].astype(float), pixels[:, :, -1:] / 255
    expected = colour * alpha + 255 * (1 - alpha)
    actual = rgb(Image.fromarray(pixels, {2: "LA", 4: "RGBA"}[bands]))
    assert np.abs(actual - expected).max() <= 1


def test_transparent_colour_of_an_rgb_file_becomes_white():
    pixels = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    assert rgb(through_file(Image.fromarray(pixels), "PNG", transparency=(1, 2, 3)))[0].tolist() == [
        [255, 255, 255],
        [4, 5, 6],
    ]


def test_cmyk_is_ink_on_white():
    pixels = noise(16, 16, 4)
    ink = pixels.astype(float) / 255
    expected = 255 * (1 - ink[:, :, :3]) * (1 - ink[:, :, 3:])
    assert np.abs(rgb(Image.fromarray(pixels, "CMYK")) - expected).max() <= 1


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].swapaxes(0, 1)),
        (8, lambda a: np.rot90(a, 1)),
        (9, lambda a: a),  # does not exist
    ],
)
def test_exif_orientation(orientation, upright):
    pixels = noise(4, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = through_file(Image.fromarray(pixels), "PNG", exif=exif)
    assert (rgb(image) == upright(pixels)).all()
