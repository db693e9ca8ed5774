import io
import threading

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, UnidentifiedImageError

from alitok.core.errors import AlitokError
from alitok.data.crops import to_rgb
from alitok.data.decode import BrokenImageError, decode, in_threads, reason, too_small
from alitok.data.survey import examine


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


RGB = Image.fromarray(noise(9, 14, 3))
TURNED = Image.Exif()
TURNED[0x0112] = 6
PALETTE = RGB.convert("P")
GREY_16 = Image.fromarray(noise(9, 14).astype(np.uint16) * 257)


@pytest.mark.parametrize(
    ("data", "kinds"),
    [
        (encoded(RGB), ()),
        (encoded(RGB, "JPEG"), ()),
        (encoded(RGB.convert("L")), ("grey",)),
        (encoded(RGB.convert("1")), ("black and white",)),
        (encoded(RGB.convert("LA")), ("grey", "alpha")),
        (encoded(RGB.convert("RGBA")), ("alpha",)),
        (encoded(Image.fromarray(noise(9, 14, 4)), "WEBP"), ("alpha",)),
        (encoded(RGB.convert("CMYK"), "JPEG"), ("CMYK",)),
        (encoded(RGB.convert("CMYK"), "TIFF"), ("CMYK",)),
        (encoded(PALETTE), ("palette",)),
        (encoded(PALETTE, transparency=3), ("palette", "alpha")),
        (encoded(RGB, transparency=(1, 2, 3)), ("alpha",)),
        (encoded(GREY_16), ("grey", "16-bit")),
        (encoded(GREY_16, "TIFF"), ("grey", "16-bit")),
        (encoded(RGB.convert("F"), "TIFF"), ("grey", "float")),
        (encoded(RGB, "JPEG", exif=TURNED), ("turned by EXIF",)),
        (encoded(RGB, "PNG", exif=TURNED), ("turned by EXIF",)),
        (encoded(RGB, "TIFF", exif=TURNED), ("turned by EXIF",)),
        (encoded(RGB, "WEBP", save_all=True, append_images=[RGB.rotate(180)]), ("animated",)),
        (encoded(PALETTE, "GIF", save_all=True, append_images=[PALETTE.rotate(180)]), ("palette", "animated")),
        (encoded(RGB, "PNG", save_all=True, append_images=[RGB.rotate(180)]), ("animated",)),
    ],
)
def test_what_a_image_is_besides_plain_rgb(data, kinds):
    facts = examine(lambda: data)
    assert facts.problem is None
    assert facts.kinds == kinds
    assert (facts.width, facts.height) == ((9, 14) if "turned by EXIF" in kinds else (14, 9))
    image = decode(data)
    assert (image.mode, image.size) == ("RGB", (facts.width, facts.height))


def test_a_image_of_16_bits_a_colour():
    """Written by hand, as Pillow writes none."""
    import struct
    import zlib

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    values = np.random.default_rng(1).integers(0, 65536, (3, 4, 3)).astype(">u2")
    lines = b"".join(b"\0" + row.tobytes() for row in values)
    header = struct.pack(">IIBBBBB", 4, 3, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    assert examine(lambda: data).kinds == ("16-bit",)
    assert np.abs(np.asarray(decode(data)).astype(int) - values.astype(int) / 257).max() <= 1


@pytest.mark.parametrize("form", ["TIFF", "PNG", "JPEG", "WEBP"])
def test_images_are_turned_upright_once_in_all_formats(form):
    quarter = np.zeros((40, 60, 3), np.uint8)
    quarter[:20, :30] = 255  # top left
    for value, corner in ((1, (0, 0)), (3, (1, 1)), (6, (0, 1)), (8, (1, 0))):
        exif = Image.Exif()
        exif[0x0112] = value
        pixels = np.asarray(decode(encoded(Image.fromarray(quarter), form, exif=exif))).astype(int)[:, :, 0]
        assert pixels.shape == ((40, 60) if value in (1, 3) else (60, 40))
        h, w = (side // 2 for side in pixels.shape)
        means = [[pixels[y * h : y * h + h, x * w : x * w + w].mean() for x in (0, 1)] for y in (0, 1)]
        assert np.unravel_index(np.argmax(means), (2, 2)) == corner


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
def test_damaged_exif_does_not_make_a_image_unusable(exif):
    data = encoded(RGB, "JPEG", exif=exif)
    assert np.array_equal(np.asarray(decode(data)), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.filterwarnings("ignore:Truncated File")
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
@pytest.mark.parametrize("exif", [False, True])
def test_wherever_a_image_is_cut_it_is_not_taken_for_whole(form, exif):
    """A cut is allowed to go unseen only where no pixel is lost."""
    if exif and form in ("GIF", "BMP"):
        pytest.skip("has no EXIF")
    image = Image.fromarray(noise(30, 40, 3))
    data = encoded(image, form, **({"exif": TURNED} if exif else {}))
    whole = np.asarray(decode(data))
    for keep in range(0, len(data), max(1, len(data) // 60)):
        facts = examine(lambda keep=keep: data[:keep])
        if facts.problem is None:
            assert np.array_equal(np.asarray(decode(data[:keep])), whole)
        else:
            assert "\n" not in facts.problem
            assert facts.problem.split()[0] in ("cannot", "is")


def test_no_reader_starts_another_program(monkeypatch):
    """EPS is decoded by Ghostscript, whatever a file is called."""
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *words, **names: started.append(words))
    eps = encoded(RGB, "EPS")
    assert examine(lambda: eps).problem == "is not an image that Pillow can read"
    with pytest.raises(UnidentifiedImageError):
        decode(eps)
    assert started == []


def test_the_digest_is_of_the_pixels_and_nothing_else():
    digest = lambda data: examine(lambda: data).digest  # noqa: E731
    same = {digest(encoded(RGB)), digest(encoded(RGB, "BMP")), digest(encoded(RGB, compress_level=0))}
    same.add(digest(encoded(RGB.transpose(Image.Transpose.ROTATE_90), exif=TURNED)))
    assert len(same) == 1
    changed = np.array(RGB)
    changed[3, 3, 1] ^= 1
    others = [Image.fromarray(changed), Image.new("RGB", (4, 6)), Image.new("RGB", (6, 4)), Image.new("RGB", (24, 1))]
    assert len({digest(encoded(other)) for other in others} | same) == 5


def test_of_an_animation_the_first_frame_is_taken():
    data = encoded(RGB, "WEBP", lossless=True, save_all=True, append_images=[RGB.rotate(180)])
    assert np.array_equal(np.asarray(decode(data)), np.asarray(RGB))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(2, "No such file", "x"), "does not exist"),
        (PermissionError(13, "Permission denied", "x"), "cannot be read (Permission denied)"),
        (OSError("image file is truncated"), "cannot be decoded (image file is truncated)"),
        (SyntaxError("broken\n  PNG"), "cannot be decoded (broken PNG)"),
        (ZeroDivisionError(), "cannot be decoded (ZeroDivisionError)"),
        (Image.UnidentifiedImageError("x"), "is not an image that Pillow can read"),
        (BrokenImageError("x", "is odd"), "is odd"),
    ],
)
def test_every_failure_in_words(error, said):
    assert reason(error) == said


def test_errors_that_are_not_the_images_propagate():
    with pytest.raises(AlitokError, match="the network is gone"):
        reason(AlitokError("the network is gone"))

    def read():
        raise AlitokError("the network is gone")

    with pytest.raises(AlitokError, match="the network is gone"):
        examine(read)


@pytest.mark.parametrize("size", [16, 32, 33, 256])
def test_a_image_is_too_small_when_it_would_be_enlarged_more_than_four_times(size):
    for side in range(1, 80):
        small = side < 8 or side * 4 < size - size % 4
        assert (too_small(side, 500, size) is not None) == (too_small(500, side, size) is not None) == small


def test_threads_keep_the_order_and_do_not_run_far_ahead():
    started, most = [], []
    lock = threading.Lock()

    def work(item):
        with lock:
            started.append(item)
        return item * item

    for count, result in enumerate(in_threads(work, iter(range(500)), threads=3), start=1):
        assert result == (count - 1) ** 2
        most.append(len(started) - count)
    assert sorted(started) == list(range(500))
    assert max(most) <= 12


def test_an_error_in_a_thread_ends_the_work():
    started = []

    def work(item):
        started.append(item)
        if item == 5:
            raise KeyError(item)
        return item

    results = in_threads(work, range(10_000), threads=2)
    with pytest.raises(KeyError):
        list(results)
    assert len(started) < 100


def test_a_closed_iteration_ends_the_work():
    started = []
    results = in_threads(started.append, range(10_000), threads=2)
    next(results)
    results.close()
    assert len(started) < 100


def test_float_and_integer_images_from_files():
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    for scale in (1, 255):
        pixels = np.asarray(decode(encoded(Image.fromarray(values * scale), "TIFF")))
        assert np.abs(pixels[:, :, 0] - values * 255).max() <= 0.5
    assert to_rgb(Image.fromarray(np.array([[np.nan, 1.0]], np.float32))).getpixel((0, 0)) == (0, 0, 0)
