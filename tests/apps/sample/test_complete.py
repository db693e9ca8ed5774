"""An image continued from its first rows, on a sheet."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from alitok.apps.sample.complete import run_complete
from alitok.apps.sample.options import CompleteOptions
from alitok.core.errors import AlitokError
from alitok.data.crops import centre_crop
from alitok.sampling import SamplingConfig, SamplingOverrides

TOKENIZER = {"image_size": 16, "patch_size": 4, "codebook_size": 40, "stage2": None}


@pytest.fixture
def pipeline(make_pipeline):
    return make_pipeline(("ant", "bee", "cow"), sampling=SamplingConfig(), **TOKENIZER)


@pytest.fixture
def ask(tmp_path, pipeline):
    pipeline.save_pretrained(tmp_path / "model")
    (tmp_path / "bee").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 34, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "bee" / "x.png")

    def run(**changes):
        model, image = changes.pop("model", str(tmp_path / "model")), changes.pop("image", tmp_path / "bee" / "x.png")
        options = replace(CompleteOptions(rows=2, out=tmp_path / "sheets" / "s.png", device="cpu"), **changes)
        run_complete(model, image, options)
        return options.out

    return run


def tiles(path, count):
    """The images of a sheet, shrunk to what they were, and the captions below them."""
    with Image.open(path) as image:
        sheet = np.asarray(image)
    found = []
    for number in range(count):
        top, left = 4 + number // 8 * (96 + 14 + 4), 4 + number % 8 * 100
        found.append(sheet[top : top + 96 : 6, left : left + 96 : 6])
        assert sheet[top + 96 : top + 110, left : left + 96].min() < 100, "no caption"
    return np.stack(found)


def test_the_sheet_shows_the_crop_its_reconstruction_and_the_completions(ask, pipeline, capsys, tmp_path):
    shown = tiles(ask(count=9, seed=3, sampling=SamplingOverrides(top_k=5)), 11)
    with Image.open(tmp_path / "bee" / "x.png") as image:
        original = image.convert("RGB")
    crop = centre_crop(original, 16)
    assert np.array_equal(shown[0], np.asarray(crop))
    image = torch.from_numpy(np.asarray(crop).copy()).permute(2, 0, 1)[None] / 255
    rebuilt = pipeline.tokenizer.reconstruct(image)[0].permute(1, 2, 0).clamp(0, 1) * 255
    assert np.abs(shown[1] - rebuilt.detach().numpy()).max() <= 1
    drawn = pipeline.complete(
        original, 2, [1] * 9, seed=3, sampling=SamplingOverrides(top_k=5).apply_to(pipeline.sampling)
    )
    assert np.array_equal(shown[2:], np.stack([np.asarray(each) for each in drawn]))
    # One decoder, and a causal one: the rows that were kept are those of the reconstruction, the others are not.
    assert np.array_equal(shown[2:, :8], np.broadcast_to(shown[1, :8], (9, 8, 16, 3)))
    assert len({each.tobytes() for each in shown[2:, 8:]}) > 5
    assert "2 of 4 rows of" in capsys.readouterr().out


def test_all_rows_give_the_reconstruction_and_none_a_sample(ask, pipeline):
    shown = tiles(ask(rows=4, count=2), 4)
    assert np.array_equal(shown[2], shown[1])
    assert np.array_equal(shown[3], shown[1])
    free = tiles(ask(rows=0, count=2, class_name="cow"), 4)
    drawn = pipeline([2, 2])
    assert np.array_equal(free[2:], np.stack([np.asarray(each) for each in drawn]))


def test_the_class_is_that_of_the_folder_or_of_the_option(ask, make_pipeline, capsys, tmp_path):
    for changes, said in (({}, "bee (1)"), ({"class_name": "ANT"}, "ant (0)"), ({"class_name": "2"}, "cow (2)")):
        ask(**changes, count=1)
        assert f"1 completion as {said}" in capsys.readouterr().out
    (tmp_path / "y.png").write_bytes((tmp_path / "bee" / "x.png").read_bytes())
    with pytest.raises(AlitokError, match=r"y\.png is not in a folder that is named after a class .* give --class"):
        ask(image=tmp_path / "y.png")
    make_pipeline(classes=1, **TOKENIZER).save_pretrained(tmp_path / "alone")
    ask(model=str(tmp_path / "alone"), image=tmp_path / "y.png", out=tmp_path / "one.png")
    assert "as 0: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": 5}, "rows must be within 0 to 4"),
        ({"rows": -1}, "rows must be within 0 to 4"),
        ({"count": 0}, "--count must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"out": "sheet.jpg"}, r"must end in \.png"),
        ({"out": "bee/x.png"}, "is the image itself, which the sheet would replace"),
        ({"class_name": "be"}, r"near: bee \(1\)"),
        ({"image": "none.png"}, r"none\.png does not exist; give another image"),
        ({"image": "model/pipeline.json"}, "is not an image that Pillow can read; give another"),
        ({"sampling": SamplingOverrides(temperature=-1.0)}, "temperature must be at least 0"),
        ({"model": "nowhere"}, "not a directory with a saved model"),
    ],
)
def test_bad_completions_are_rejected_before_anything_is_written(ask, tmp_path, changes, said):
    changes = {name: tmp_path / value if name in ("out", "image") else value for name, value in changes.items()}
    with pytest.raises(AlitokError, match=said):
        ask(**changes)
    assert {path.name for path in tmp_path.iterdir()} == {"model", "bee"}
