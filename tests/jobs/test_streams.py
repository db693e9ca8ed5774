"""Iterators in, iterators out: what the jobs yield, and that a consumer is not left inside their contexts."""

import numpy as np
import pytest
import torch
from PIL import Image

from alitok.data.codes import CodeStore, write_codes
from alitok.data.source import crops_per_picture, open_splits
from alitok.jobs.reconstruct import reconstruct
from alitok.jobs.tokenize import encode_source, tokenize
from alitok.tokenizer import DecoderConfig, EncoderConfig, Tokenizer, TokenizerConfig

SMALL = {"width": 16, "layers": 1, "heads": 2}
TOKENIZER = TokenizerConfig(
    image_size=6,
    patch_size=2,
    codebook_size=20,
    code_width=4,
    encoder=EncoderConfig(**SMALL),
    stage1=DecoderConfig(**SMALL, causal=True, extra_tokens=1, prefix_head=True),
    stage2=DecoderConfig(**SMALL, extra_tokens=2),
)
CPU = torch.device("cpu")


def test_tokenize_and_reconstruct_agree_with_the_model_and_leave_no_mode_behind():
    tokenizer = Tokenizer(TOKENIZER).eval()
    pictures = np.random.default_rng(0).integers(0, 256, (5, 3, 6, 6), dtype=np.uint8)
    images = torch.from_numpy(pictures).float() / 255
    batches = [(pictures[:3], np.array([0, 1, 2])), (pictures[3:], np.array([3, 4]))]
    codes, labels = [], []
    for block, classes in tokenize(tokenizer, batches, CPU):
        assert not torch.is_inference_mode_enabled()
        codes.append(block)
        labels.extend(classes.tolist())
    assert np.array_equal(np.concatenate(codes), tokenizer.encode(images).numpy())
    assert labels == [0, 1, 2, 3, 4]
    for stage in ("stage1", "stage2"):
        rebuilt = []
        for block in reconstruct(tokenizer, (block for block, _ in batches), stage, CPU):
            assert not torch.is_inference_mode_enabled()
            rebuilt.append(block)
        expected = tokenizer.reconstruct(images, stage).detach().numpy()
        assert np.allclose(np.concatenate(rebuilt), expected, atol=1e-6)


class PatchMeans:
    """Stands for a trained tokenizer, whose codes tell pictures apart; those of random weights hardly do."""

    def encode(self, images):
        return (20 * torch.nn.functional.avg_pool2d(images.mean(1), 2)).long().flatten(1)


@pytest.fixture
def source(tmp_path):
    """Three training pictures of six, all of which mirroring changes."""
    for number in range(6):
        path = tmp_path / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return open_splits(str(tmp_path), 6).train


def codes_of(tokenizer, pictures):
    with torch.no_grad():
        return tokenizer.encode(torch.from_numpy(np.ascontiguousarray(pictures)).float() / 255).numpy()


@pytest.mark.parametrize(("recipe", "crops"), [("centre", 1), ("flip", 2), ("ten", 10)])
def test_a_source_is_encoded_view_by_view_whatever_the_batch(source, recipe, crops, tmp_path):
    tokenizer = PatchMeans()
    expected = np.concatenate([codes_of(tokenizer, source.views(index, recipe)) for index in range(len(source))])
    for batch_size in (1, 4, 7, 256):
        batches = list(encode_source(tokenizer, source, recipe, CPU, batch_size))
        assert np.array_equal(np.concatenate([codes for codes, _ in batches]), expected)
        assert np.array_equal(np.concatenate([labels for _, labels in batches]), np.repeat(source.labels, crops))
    assert crops_per_picture(source, recipe) == crops
    store_path = tmp_path / "store"
    write_codes(store_path, batches, codebook_size=20, classes=source.classes, tokenizer="t", crops=crops)
    store = CodeStore(store_path)
    assert store.pictures == len(source)
    last = codes_of(tokenizer, source.views(len(source) - 1, recipe))
    assert np.array_equal(store.codes(range(len(store) - crops, len(store))), last)


def test_the_codes_of_a_mirrored_view_are_those_of_the_mirrored_picture(source):
    tokenizer = PatchMeans()
    rows = np.concatenate([codes for codes, _ in encode_source(tokenizer, source, "flip", CPU)])
    for index in range(len(source)):
        picture = source.read(index, None)
        assert np.array_equal(rows[2 * index], codes_of(tokenizer, picture[None])[0])
        assert np.array_equal(rows[2 * index + 1], codes_of(tokenizer, picture[None, :, :, ::-1])[0])
        assert not np.array_equal(rows[2 * index], rows[2 * index + 1])
