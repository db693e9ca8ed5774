import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from alitok.core.checkpoint import ModelCard
from alitok.core.errors import AlitokError
from alitok.core.files import write_json
from alitok.core.images import to_float, to_uint8
from alitok.data.crops import centre_crop
from alitok.generator import Generator
from alitok.sampling import SampleRequest, SamplingOverrides, memory
from alitok.sampling import pipeline as module
from alitok.sampling.pipeline import Pipeline
from alitok.sampling.synthesize import first_rows, stream_rows
from alitok.tokenizer import Tokenizer


def array(images):
    return np.stack([np.asarray(image) for image in images])


def test_classes_by_name_and_number_give_images(pipeline):
    images = pipeline(["golden retriever", 1, "TENCH"], seed=3)
    assert [image.size for image in images] == [(6, 6)] * 3
    assert np.array_equal(array(images), array(pipeline([np.int64(0), "1", 1], seed=3)))
    assert not np.array_equal(array(images), array(pipeline([0, 1, 1], seed=4)))


def test_an_image_depends_on_its_place_and_seed_not_on_the_batch(pipeline):
    together = array(pipeline([0, 1, 2, 0], seed=1))
    assert np.array_equal(together, array(pipeline([0, 1, 2, 0], seed=1, batch_size=3)))
    assert np.array_equal(together[:2], array(pipeline([0, 1], seed=1)))


def test_options_replace_the_default(pipeline):
    default = array(pipeline([0] * 8, seed=1))
    assert np.array_equal(default, array(pipeline([0] * 8, seed=1, guidance_scale=2.0)))
    assert not np.array_equal(default, array(pipeline([0] * 8, seed=1, guidance_scale=8.0)))
    greedy = array(pipeline([0] * 8, seed=1, temperature=0.0))
    assert (greedy == greedy[0]).all()


def test_an_image_with_a_seed_of_its_own_does_not_depend_on_its_place(pipeline):
    several = array(pipeline([0, 1, 2], seed=[5, 6, 7]))
    assert np.array_equal(several[1:2], array(pipeline(1, seed=[6])))
    assert np.array_equal(several[1:2], array(pipeline(1, seed=6)))
    assert np.array_equal(several[1:2], array(pipeline(1, seed=np.int64(6))))
    with pytest.raises(AlitokError, match="2 seeds for 3 images"):
        pipeline([0, 1, 2], seed=[5, 6])


def test_images_of_one_call_may_have_settings_of_their_own(pipeline):
    strong = SamplingOverrides(guidance_scale=9.0).apply_to(pipeline.sampling)
    weak = SamplingOverrides(temperature=0.0, min_p=0.1).apply_to(pipeline.sampling)
    mixed = array(pipeline([0, 0], seed=[1, 1], sampling=[strong, weak]))
    assert np.array_equal(mixed[:1], array(pipeline(0, seed=1, guidance_scale=9.0)))
    assert np.array_equal(mixed[1:], array(pipeline(0, seed=1, sampling=weak)))
    with pytest.raises(AlitokError, match="not both"):
        pipeline(0, sampling=weak, top_k=3)


def test_streamed_strips_are_the_causal_decoders_image_and_the_end_is_the_call(pipeline):
    drawn = list(pipeline.stream([0, 2], seed=4))
    *strips, last = drawn
    assert [(strip.top, strip.finished) for strip in strips] == [(0, False), (2, False), (4, False)]
    assert last.finished
    codes = torch.from_numpy(last.codes)
    first = to_uint8(pipeline.tokenizer.decode(codes, "stage1")).numpy()
    assert np.array_equal(np.concatenate([strip.images for strip in strips], axis=2), first)
    finished = np.stack([np.asarray(image) for image in pipeline([0, 2], seed=4)])
    assert np.array_equal(last.images.transpose(0, 2, 3, 1), finished)


def test_an_image_is_continued_from_its_first_rows_in_any_class(pipeline):
    image = Image.fromarray(np.random.default_rng(0).integers(256, size=(9, 7, 3), dtype=np.uint8))
    cropped = torch.from_numpy(np.asarray(centre_crop(image, 6)).copy()).permute(2, 0, 1)
    codes = pipeline.tokenizer.encode(to_float(cropped)[None])[0]
    drawn = list(stream_rows(pipeline.engine, pipeline.tokenizer, pipeline.decoder, asked(pipeline, image, 2)))
    kept = pipeline.tokenizer.config.prefix_length + 2 * 3
    assert (torch.from_numpy(drawn[-1].codes)[:, :kept] == codes[:kept]).all()
    both = array(pipeline.complete(image, 2, [0, "tench"], seed=1))
    assert np.array_equal(both, drawn[-1].images.transpose(0, 2, 3, 1))
    assert np.array_equal(array(pipeline.complete(image, 0, [0, 1], seed=1)), array(pipeline([0, 1], seed=1)))
    whole = array(pipeline.complete(image, 3, [0, 1], seed=1))
    assert np.array_equal(whole[0], whole[1])
    with pytest.raises(AlitokError, match="within 0 to 3"):
        pipeline.complete(image, 4, 0)


def asked(pipeline, image, rows):
    given = first_rows(pipeline.tokenizer, image, rows)
    return [SampleRequest(label, 1, label, pipeline.sampling, given) for label in (0, 1)]


def test_a_saved_and_loaded_pipeline_gives_the_same_images(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "m")
    loaded = Pipeline.from_pretrained(tmp_path / "m", device="cpu")
    assert loaded.sampling == pipeline.sampling
    assert np.array_equal(array(loaded(["tench"])), array(pipeline(["tench"])))


def test_each_model_can_be_loaded_out_of_a_saved_pair(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "m")
    assert Tokenizer.from_pretrained(tmp_path / "m").config == pipeline.tokenizer.config
    assert Generator.from_pretrained(str(tmp_path / "m")).class_names == pipeline.generator.class_names


def test_the_card_tells_data_steps_numbers_configuration_and_licence(pipeline, tmp_path):
    card = ModelCard("A\ntitle", "Text.", "my images", {"stage1": 1500}, {"psnr": 21.987}, licence="cc0: 'x'")
    pipeline.save_pretrained(tmp_path / "m", card)
    text = (tmp_path / "m" / "README.md").read_text()
    head = text.split("---")[1]
    assert "license: \"cc0: 'x'\"" in head
    for part in ("# A title", "my images", "stage1: 1,500 steps", "| psnr | 21.99 |", '"codebook_size": 20'):
        assert part in text
    for name, loader in (("tokenizer", "alitok.Tokenizer"), ("generator", "alitok.Generator")):
        text = (tmp_path / "m" / name / "README.md").read_text()
        assert "my images" in text
        assert f"{loader}.from_pretrained" in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("golden retreiver", r"near: golden retriever \(0\)"),
        (3, "classes are 0 to 2"),
        (-1, "0 to 2"),
        ("xyz", r"no class 'xyz'; the classes are golden retriever \(0\), "),
        (1.5, "whole number"),
        (None, "whole number"),
    ],
)
def test_an_unknown_class_is_rejected_with_near_ones(pipeline, name, words):
    with pytest.raises(AlitokError, match=words):
        pipeline([name])


def test_many_classes_are_not_all_named(pipeline):
    config = replace(pipeline.generator.config, classes=13)
    tokenizer, names = pipeline.tokenizer, [f"class number {number}" for number in range(13)]
    for generator in (Generator(config, names), Generator(config)):
        with pytest.raises(AlitokError, match="no class 'xyz'; its classes have the numbers 0 to 12"):
            Pipeline(tokenizer, generator.eval()).class_number("xyz")


def test_a_class_whose_name_is_a_number_is_found_by_name(pipeline):
    assert pipeline.class_number("7") == 2
    assert pipeline.class_number("1") == 1


def test_exact_names_come_before_folded_ones_and_ambiguous_ones_are_rejected(pipeline):
    config = pipeline.generator.config
    pipeline = Pipeline(pipeline.tokenizer, Generator(config, ["Cardigan", "cardigan", "golden retriever"]).eval())
    assert [pipeline.class_number(name) for name in ("Cardigan", "cardigan", "Golden_Retriever")] == [0, 1, 2]
    with pytest.raises(AlitokError, match=r"more than one class 'CARDIGAN'; near: Cardigan \(0\), cardigan \(1\)"):
        pipeline.class_number("CARDIGAN")
    assert len(pipeline("cardigan")) == len(pipeline(1)) == 1
    with pytest.raises(AlitokError, match="2 class names for 3 classes"):
        Generator(config, ["a", "b"])


def test_saving_takes_a_string_and_touches_nothing_that_is_not_a_models(pipeline, tmp_path):
    pipeline.save_pretrained(str(tmp_path / "m"))
    pipeline.save_pretrained(str(tmp_path / "m"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for model in (pipeline.tokenizer, pipeline.generator):
        for taken in (tmp_path / "mine", tmp_path / "m"):
            with pytest.raises(AlitokError, match="holds other files than a saved"):
                model.save_pretrained(str(taken))
    assert (tmp_path / "mine" / "thesis.txt").exists()
    assert Pipeline.from_pretrained(tmp_path / "m", device="cpu")


def test_weights_that_are_not_finite_are_rejected(pipeline, tmp_path):
    pipeline.generator.norm.weight.data[0] = float("nan")
    pipeline.save_pretrained(tmp_path / "m")
    with pytest.raises(AlitokError, match=r"generator\.safetensors.*norm\.weight holds values that are not finite"):
        Pipeline.from_pretrained(tmp_path / "m", device="cpu")


def test_a_pair_that_lacks_a_part_never_asks_the_hub(pipeline, tmp_path, monkeypatch):
    pipeline.save_pretrained(tmp_path / "m")
    shutil.rmtree(tmp_path / "m" / "tokenizer")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AlitokError, match="has no tokenizer/, so it is not a complete pipeline"):
        Pipeline.from_pretrained("m", device="cpu")


def test_bad_values_models_and_paths_are_rejected(pipeline, tmp_path):
    with pytest.raises(AlitokError, match="temperature"):
        pipeline([0], temperature=-1.0)
    with pytest.raises(AlitokError, match="finite"):
        pipeline([0], guidance_scale=float("inf"))
    with pytest.raises(AlitokError, match="batch_size must be at least 1"):
        pipeline([0], batch_size=0)
    other = Generator(replace(pipeline.generator.config, grid=4))
    with pytest.raises(AlitokError, match="use models trained together"):
        Pipeline(pipeline.tokenizer, other)
    with pytest.raises(AlitokError, match="not a directory"):
        Pipeline.from_pretrained(tmp_path / "none")
    write_json(tmp_path / "pipeline.json", {"kind": "tokenizer"})
    with pytest.raises(AlitokError, match="kind 'tokenizer', not 'pipeline'"):
        Pipeline.from_pretrained(tmp_path)
    write_json(tmp_path / "pipeline.json", {"kind": "pipeline"})
    with pytest.raises(AlitokError, match="it lacks sampling"):
        Pipeline.from_pretrained(tmp_path)


def test_only_possible_names_are_looked_up_on_the_hub(tmp_path):
    with pytest.raises(AlitokError, match="not a directory with a saved model"):
        Pipeline.from_pretrained(str(tmp_path / "a" / "b" / "c"))
    with pytest.raises(AlitokError, match="hub"):
        Pipeline.from_pretrained("nobody/nothing-at-all", offline=True)


def test_the_batch_of_a_call_fits_into_memory(pipeline, monkeypatch):
    sizes = []

    def watch(engine, decoder, requests, *, batch_size):
        sizes.append(batch_size)
        return iter(())

    monkeypatch.setattr(module, "synthesize", watch)
    weights = sum(parameter.nbytes for parameter in pipeline.generator.parameters())
    one = memory.codes_bytes(pipeline.engine, 1, guided=True) + memory.decoder_bytes(pipeline.tokenizer)
    for free, wanted in (((2 * weights + 7.5 * one) / 0.95, 7), (weights, 1), (1 << 50, 64), (None, 64)):
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: None if free is None else int(free))
        pipeline([0, 1])
        assert sizes.pop() == wanted
    pipeline([0, 1], batch_size=3)
    assert sizes == [3]
    # Without guidance an image takes one row.
    monkeypatch.setattr(memory, "free_memory", lambda device: int((2 * weights + 7.5 * one) / 0.95))
    pipeline([0], guidance_scale=1.0)
    assert sizes.pop() > 7
