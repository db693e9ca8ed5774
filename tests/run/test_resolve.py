"""What the user asked for, before anything is computed."""

import io
import tarfile

import pytest
from PIL import Image

from alitok.run.options import TrainOptions
from alitok.run.resolve import resolve


@pytest.fixture
def far(tmp_path, monkeypatch):
    """Two archives elsewhere, 40 images of 70 x 64 pixels in two classes."""
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setenv("ALITOK_CACHE", str(tmp_path / "cache"))
    for shard in range(2):
        with fsspec.open(f"memory://looked-at/{shard}.tar", "wb") as file, tarfile.open(fileobj=file, mode="w") as out:
            for number in range(20):
                buffer = io.BytesIO()
                Image.new("RGB", (70, 64), (number, shard, 0)).save(buffer, "PNG")
                member = tarfile.TarInfo(f"{'ab'[number % 2]}/{number}.png")
                member.size = len(buffer.getvalue())
                out.addfile(member, io.BytesIO(buffer.getvalue()))
    return "memory://looked-at/{0..1}.tar"


def test_downloads_for_choosing_sizes_are_reported(far, tmp_path):
    said = []
    options = TrainOptions(out=tmp_path / "run", data=far, preset="small", device="cpu")
    assert resolve(options, said.append).recipe.tokenizer.image_size == 32
    assert {f"Fetching memory://looked-at/{shard}.tar" for shard in range(2)} < set(said)
    assert said[-1] == f"Previewing 40 images from 2 archives of {far}"
    before = len(said)
    named = TrainOptions(out=tmp_path / "run", data=far, preset="photos", device="cpu")  # sizes that no image changes
    resolve(named, said.append)
    assert len(said) == before
