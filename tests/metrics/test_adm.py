import io
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from alitok.core.errors import AlitokError
from alitok.metrics.adm import NpzImages, is_statistics, load_adm

SAVERS = pytest.mark.parametrize("save", [np.savez, np.savez_compressed])


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(256, size=(23, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "samples.npz"


def _channels_first(pixels):
    return np.moveaxis(pixels, 3, 1)


@SAVERS
def test_blocks_are_the_images(save, path, pixels):
    save(path, pixels)
    found = NpzImages(path)
    assert (found.count, len(found), found.side, found.labels) == (23, 23, 8, None)
    blocks = list(found.blocks(10))
    assert [block.shape for block in blocks] == [(10, 3, 8, 8), (10, 3, 8, 8), (3, 3, 8, 8)]
    assert all(block.dtype == np.uint8 and block.flags.c_contiguous and block.flags.writeable for block in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), _channels_first(pixels))
    np.testing.assert_array_equal(np.concatenate(list(found.blocks(4, first=9))), _channels_first(pixels)[9:])


@SAVERS
def test_ranges_are_read_in_any_order(save, path, pixels):
    save(path, pixels, np.arange(23))
    found = NpzImages(path)
    for rows in (range(20, 23), range(3, 9), range(4, 5), range(0, 23), range(7, 7), range(22, 23)):
        np.testing.assert_array_equal(found.read(rows), _channels_first(pixels)[rows.start : rows.stop])


@SAVERS
def test_a_large_file_is_never_in_memory_whole(save, path):
    pixels = np.zeros((10_000, 32, 32, 3), np.uint8)
    save(path, pixels)
    tracemalloc.start()
    try:
        found = NpzImages(path)
        assert sum(len(block) for block in found.blocks(50)) == 10_000
        assert len(found.read(range(9990, 10_000))) == 10
        assert tracemalloc.get_traced_memory()[1] < pixels.nbytes / 10
    finally:
        tracemalloc.stop()


def test_only_the_block_is_read_from_an_uncompressed_file(path, monkeypatch):
    np.savez(path, np.zeros((1000, 32, 32, 3), np.uint8))
    found = NpzImages(path)
    monkeypatch.setattr(zipfile, "ZipFile", None)  # decompression would need it
    assert found.read(range(990, 1000)).shape == (10, 3, 32, 32)


@pytest.mark.parametrize("name", ["arr_1", "labels"])
@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_classes_are_read_with_the_images(path, pixels, name, kind):
    np.savez(path, arr_0=pixels, **{name: np.arange(23, dtype=kind)})
    found = NpzImages(path)
    assert found.labels.dtype == np.int64
    assert found.labels.tolist() == list(range(23))


@pytest.mark.parametrize("labels", [np.zeros(22, np.int64), np.zeros((23, 10), np.int64), np.zeros(23)])
def test_invalid_classes_are_rejected(path, pixels, labels):
    np.savez(path, pixels, labels)
    with pytest.raises(AlitokError, match=r"samples\.npz: arr_1 must be 23 integers"):
        NpzImages(path)


def test_npy_header_version_2_is_read(path, pixels):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, pixels, version=(2, 0))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", buffer.getvalue())
    np.testing.assert_array_equal(NpzImages(path).read(range(5, 9)), _channels_first(pixels)[5:9])


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((5, 8, 8), np.uint8), "grayscale images .* save them as RGB"),
        (np.zeros((5, 8, 8, 1), np.uint8), "grayscale images .* save them as RGB"),
        (np.zeros((5, 3, 8, 8), np.uint8), r"holds shape \(5, 3, 8, 8\)"),
        (np.zeros((5, 8, 8, 4), np.uint8), r"holds shape \(5, 8, 8, 4\)"),
        (np.zeros((5, 2048), np.uint8), r"holds shape \(5, 2048\)"),
        (np.zeros((5, 8, 8, 3), np.float32), "values of type float32"),
        (np.zeros((5, 8, 8, 3), np.int8), "values of type int8"),
        (np.zeros((5, 8, 6, 3), np.uint8), "images of 8 x 6 px"),
        (np.zeros((0, 8, 8, 3), np.uint8), "holds no images"),
        (np.zeros((3, 8, 8, 5), np.uint8).T, "Fortran order; save np.ascontiguousarray"),
        (np.array([None, 1], object), "Python objects, which are not loaded"),
    ],
)
def test_arrays_that_are_not_square_rgb_images_are_rejected(path, array, words):
    np.savez(path, array)
    with pytest.raises(AlitokError, match=rf"samples\.npz: arr_0 must be images .N, h, h, 3. uint8 and .*{words}"):
        NpzImages(path)


def test_a_file_without_images_lists_what_it_holds(path):
    np.savez(path, mu=np.zeros(3), sigma=np.zeros(2))
    with pytest.raises(AlitokError, match=r"samples\.npz has no array arr_0 .* it holds mu, sigma\."):
        NpzImages(path)


@SAVERS
def test_damaged_files_are_reported(save, path, pixels):
    with pytest.raises(AlitokError, match=r"samples\.npz does not exist"):
        NpzImages(path)
    path.write_text("not a zip")
    with pytest.raises(AlitokError, match=r"samples\.npz is damaged"):
        NpzImages(path)
    save(path, pixels)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(AlitokError, match=r"samples\.npz is damaged"):
        NpzImages(path)
    path.write_bytes(whole)
    found = NpzImages(path)
    path.write_bytes(whole[:2000])  # truncated while open
    with pytest.raises(AlitokError, match=r"samples\.npz is damaged"):
        found.read(range(15, 20))
    path.unlink()
    with pytest.raises(AlitokError, match=r"samples\.npz is damaged"):
        found.read(range(15, 20))


def test_damage_inside_a_compressed_file_is_reported(path, pixels):
    np.savez_compressed(path, pixels)
    data = bytearray(path.read_bytes())
    data[1000:1040] = bytes(40)
    path.write_bytes(data)
    found = NpzImages(path)
    with pytest.raises(AlitokError, match=r"samples\.npz is damaged"):
        found.read(range(0, 23))


def test_a_header_longer_than_its_data_is_reported(path, pixels):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, pixels)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", buffer.getvalue()[:-1])
    with pytest.raises(AlitokError, match=r"samples\.npz is damaged"):
        NpzImages(path)


def test_the_fingerprint_covers_images_and_classes(tmp_path, pixels):
    def fingerprint(save, *arrays):
        save(tmp_path / "x.npz", *arrays)
        return NpzImages(tmp_path / "x.npz").fingerprint()

    first = fingerprint(np.savez, pixels)
    assert first == fingerprint(np.savez_compressed, pixels.copy())
    other = pixels.copy()
    other[22, 7, 7, 2] ^= 1
    found = {first, fingerprint(np.savez, other), fingerprint(np.savez, pixels[:22])}
    found |= {fingerprint(np.savez, pixels, np.full(23, label)) for label in (0, 1)}
    assert len(found) == 5


@pytest.fixture(scope="module")
def statistics():
    random = np.random.default_rng(1)

    def pair(dimensions):
        return random.normal(size=dimensions), np.diag(random.uniform(1, 2, dimensions).astype(np.float32))

    (mu, sigma), (mu_s, sigma_s) = pair(2048), pair(2023)
    return {"mu": mu, "sigma": sigma, "mu_s": mu_s, "sigma_s": sigma_s}


def test_statistics_are_loaded_unchanged(path, pixels, statistics):
    np.savez(path, arr_0=pixels, **statistics)
    found = load_adm(path)
    for gaussian, names in ((found.pool, ("mu", "sigma")), (found.spatial, ("mu_s", "sigma_s"))):
        for part, name in zip(gaussian, names, strict=True):
            assert part.dtype == torch.float64
            np.testing.assert_array_equal(part.numpy(), statistics[name])
    np.testing.assert_array_equal(found.images.read(range(23)), _channels_first(pixels))


def test_a_reference_may_lack_spatial_statistics_images_or_all_statistics(path, pixels, statistics):
    np.savez(path, mu=statistics["mu"], sigma=statistics["sigma"])
    found = load_adm(path)
    assert found.pool is not None
    assert found.spatial is found.images is None
    np.savez(path, pixels)
    found = load_adm(path)
    assert found.pool is found.spatial is None
    assert found.images.count == 23
    np.savez(path, something=pixels)
    with pytest.raises(AlitokError, match=r"samples\.npz holds neither mu and sigma nor images"):
        load_adm(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mu": np.zeros(2047)}, r"mu and sigma have the shapes \(2047,\) and \(2048, 2048\), but .* 2048"),
        ({"mu": np.zeros(64), "sigma": np.zeros((64, 64))}, r"mu and sigma have the shapes \(64,\)"),
        ({"sigma_s": np.zeros((2048, 2048))}, r"mu_s and sigma_s have the shapes .* Inception has 2023"),
        ({"mu": np.full(2048, np.nan)}, "mu and sigma are not finite numbers"),
        ({"sigma": np.full((2048, 2048), np.inf, np.float32)}, "mu and sigma are not finite numbers"),
        ({"mu": np.zeros(2048, np.int64)}, "mu and sigma are not finite numbers"),
        ({"sigma": None}, r"samples\.npz has only one of mu and sigma"),
        ({"mu_s": None}, r"samples\.npz has only one of mu_s and sigma_s"),
        ({"mu": np.array([None], object)}, r"samples\.npz is damaged or not an npz file of numbers"),
        ({"arr_0": np.zeros((2, 8, 8), np.uint8)}, "grayscale images .* save them as RGB"),
    ],
)
def test_statistics_that_are_not_of_inception_are_rejected(path, statistics, change, words):
    arrays = {name: array for name, array in (statistics | change).items() if array is not None}
    np.savez(path, **arrays)
    with pytest.raises(AlitokError, match=words):
        load_adm(path)


def test_files_of_alitok_are_recognized(path, pixels):
    np.savez(path, about=np.array("{}"))
    assert is_statistics(path)
    np.savez(path, pixels)
    assert not is_statistics(path)
    with pytest.raises(AlitokError, match="does not exist"):
        is_statistics(path.with_name("other.npz"))
