import dataclasses
from types import SimpleNamespace

import pytest
import torch

from alitok.core.errors import AlitokError
from alitok.generator import Generator, GeneratorConfig
from alitok.recipes.presets import RECIPES
from alitok.sampling import SampleRequest, SamplingConfig, oracle
from alitok.sampling.engine import GRAPH_STEP, READ_AT_ONCE, Engine
from alitok.sampling.guidance import RowSettings
from alitok.sampling.memory import cache_bytes, codes_bytes

SIZES = {
    "small": GeneratorConfig(grid=3, prefix=3, codebook_size=20, classes=5, layers=2, width=16, heads=2),
    "no prefix": GeneratorConfig(grid=4, prefix=0, codebook_size=30, classes=5, layers=1, width=24, heads=3),
    "long": GeneratorConfig(grid=9, prefix=5, codebook_size=17, classes=5, layers=2, width=16, heads=4),
}


def model(config):
    torch.manual_seed(3)
    generator = Generator(config).eval()
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return generator


@pytest.fixture(scope="module")
def generator():
    return model(SIZES["small"])


CONFIGS = [
    SamplingConfig(),
    SamplingConfig(guidance_scale=4.0, guidance_power=0.7),
    SamplingConfig(guidance_scale=4.0, guidance_schedule="linear", guidance_start=0.2, guidance_stop=0.7),
    SamplingConfig(guidance_scale=2.0, guidance_schedule="constant", soft_guidance=True),
    SamplingConfig(guidance_scale=3.0, temperature=0.8, top_k=5),
    SamplingConfig(guidance_scale=2.0, top_p=0.8, min_p=0.05),
    SamplingConfig(guidance_scale=3.0, temperature=0.0),
]


HOW = {"torch": {"kernel": "plain"}, "replayed": {"kernel": "plain", "graphs": True}, "fused": {"kernel": "fused"}}


def requests(configs, seed=1, classes=5):
    return [SampleRequest(index % classes, seed, index, config) for index, config in enumerate(configs)]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_engine_equals_the_oracle(generator, config, how):
    asked = requests([config] * 6)
    expected = oracle.sample(generator, asked)
    engine = Engine(generator, **HOW[how])
    assert torch.equal(engine.sample(asked), expected)
    assert set(engine.kernel_names.values()) == {HOW[how]["kernel"]}
    assert expected.shape == (6, 12)
    assert len(expected.unique(dim=0)) > 1
    other = requests([config] * 6, seed=2)  # in the same buffers, which still hold the first batch
    assert torch.equal(engine.sample(other), oracle.sample(generator, other))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", SIZES)
def test_every_layout_equals_the_oracle(name, how):
    generator = model(SIZES[name])
    soft = SamplingConfig(guidance_scale=3.0, guidance_power=0.5, soft_guidance=True)
    for asked in (requests([soft] * 3), requests([SamplingConfig(guidance_scale=3.0)])):
        assert torch.equal(Engine(generator, **HOW[how]).sample(asked), oracle.sample(generator, asked))
    assert SIZES["long"].sequence_length > GRAPH_STEP  # more than one length of attention


@pytest.mark.parametrize(
    ("preset", "drawn"),
    [("digits", 20), ("photos", 72), pytest.param("alitok-256", 3, marks=pytest.mark.slow)],
)
def test_named_sizes_equal_the_oracle(preset, drawn):
    """The full size with guidance as released, behind codes that are given, for the oracle is slow."""
    recipe = RECIPES[preset]
    torch.manual_seed(0)
    generator = Generator(recipe.generator_size.config(recipe.tokenizer, classes=10)).eval()
    torch.nn.init.normal_(generator.output.weight, std=0.1)
    length, size = generator.config.sequence_length, generator.config.codebook_size
    given = tuple(torch.randint(size, (length - drawn,)).tolist())
    sampling = SamplingConfig(guidance_scale=16.0, guidance_power=1.8)
    asked = [SampleRequest(label, 7, label, sampling, given) for label in (3, 9)]
    codes = Engine(generator).sample(asked)
    assert torch.equal(codes, oracle.sample(generator, asked))
    assert not torch.equal(codes[0, -drawn:], codes[1, -drawn:])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_recorded_steps_on_a_gpu_equal_the_oracle(config):
    generator = model(SIZES["long"]).to("cuda")
    engine = Engine(generator)
    for seed in (1, 2):
        asked = requests([config] * 3, seed)
        assert torch.equal(engine.sample(asked), oracle.sample(generator, asked))


def test_a_batch_may_mix_classes_scales_seeds_and_all_settings(generator):
    asked = [dataclasses.replace(request, seed=request.index % 3) for request in requests(CONFIGS)]
    engine = Engine(generator)
    together = engine.sample(asked)
    for row, request in enumerate(asked):
        assert torch.equal(engine.sample([request])[0], together[row])
    assert torch.equal(together, oracle.sample(generator, asked))


def test_an_image_does_not_depend_on_its_batch(generator):
    engine, config = Engine(generator), SamplingConfig(guidance_scale=3.0)
    asked = requests([config] * 64)
    together = engine.sample(asked)
    for size in (1, 7, 32):
        parts = [engine.sample(asked[start : start + size]) for start in range(0, 64, size)]
        assert torch.equal(torch.cat(parts), together)
    assert len(together.unique(dim=0)) > 50


def test_draws_follow_the_models_own_distribution(generator):
    """The share of first codes over many draws is the softmax of the first logits."""
    asked = [SampleRequest(0, index=index) for index in range(4000)]
    codes = Engine(generator).sample(asked)
    with torch.no_grad():
        expected = generator(codes[:1, :0], torch.tensor([0]))[0, 0].softmax(-1)
    share = torch.bincount(codes[:, 0], minlength=20) / 4000
    assert torch.allclose(share, expected, atol=0.03)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("soft", [False, True])
def test_given_codes_are_kept_and_continued(generator, soft, how):
    config = SamplingConfig(guidance_scale=3.0, soft_guidance=soft)
    engine = Engine(generator, **HOW[how])
    whole = engine.sample(requests([config] * 4))
    for counts in ([5] * 4, [0, 3, 7, 12], [12] * 4, [11, 12, 12, 12]):
        asked = [
            dataclasses.replace(request, given=tuple(codes[:count]))
            for request, codes, count in zip(requests([config] * 4), whole.tolist(), counts, strict=True)
        ]
        assert torch.equal(engine.sample(asked), whole)  # its own codes change nothing
    given = tuple((whole[0, :6] + 1).remainder(20).tolist())
    asked = [dataclasses.replace(request, given=given) for request in requests([config] * 4)]
    codes = engine.sample(asked)
    assert torch.equal(codes, oracle.sample(generator, asked))
    assert codes[:, :6].tolist() == [list(given)] * 4


def test_codes_come_row_by_row(generator):
    engine = Engine(generator)
    parts = list(engine.stream(requests(CONFIGS)))
    assert [part.shape for part in parts] == [(7, 3)] * 4
    assert torch.equal(torch.cat(parts, dim=1), engine.sample(requests(CONFIGS)))
    rows = list(Engine(model(SIZES["no prefix"])).stream(requests(CONFIGS)))
    assert [part.shape for part in rows] == [(7, 4)] * 4


def test_an_abandoned_stream_does_not_harm_later_batches(generator):
    engine = Engine(generator)
    next(engine.stream(requests(CONFIGS)))
    assert torch.equal(engine.sample(requests(CONFIGS)), oracle.sample(generator, requests(CONFIGS)))


def test_two_streams_may_be_read_in_turns(generator):
    engine, first, second = Engine(generator), requests(CONFIGS), requests(CONFIGS, seed=2)
    pairs = list(zip(engine.stream(first), engine.stream(second), strict=True))
    assert torch.equal(torch.cat([one for one, _ in pairs], dim=1), oracle.sample(generator, first))
    assert torch.equal(torch.cat([other for _, other in pairs], dim=1), oracle.sample(generator, second))


@pytest.mark.parametrize("kernel", ["plain", "fused"])
@pytest.mark.parametrize(("precision", "share"), [("bf16", 0.9), ("int8", 0.7)])
def test_rounded_weights_mostly_take_the_same_likeliest_codes(precision, share, kernel):
    generator = model(GeneratorConfig(grid=4, prefix=4, codebook_size=50, classes=5, layers=2, width=64, heads=4))
    greedy = SamplingConfig(guidance_scale=1.0, temperature=0.0)
    exact = oracle.sample(generator, requests([greedy] * 20))
    # The exact codes are given but for the last, so that one flip does not change all that follow.
    asked = [
        dataclasses.replace(request, given=tuple(codes[:position]))
        for request, codes in zip(requests([greedy] * 20), exact.tolist(), strict=True)
        for position in (5, 10, 19)
    ]
    engine = Engine(generator, precision, kernel=kernel)
    drawn = torch.cat([engine.sample(asked[start : start + 6]) for start in range(0, 60, 6)])
    assert kernel != "fused" or engine.kernel_names == {"block": "fused"}
    same = [drawn[3 * row + slot, at] == exact[row, at] for row in range(20) for slot, at in enumerate((5, 10, 19))]
    assert sum(same) / len(same) >= share


def test_the_cache_is_as_large_as_estimated(generator):
    engine = Engine(generator)
    engine.sample(requests([SamplingConfig(guidance_scale=2.0)] * 3))
    cache = engine._session._cache
    assert cache_bytes(engine, 3) == cache.numel() * cache.element_size() == 2 * cache_bytes(engine, 3, guided=False)
    assert codes_bytes(engine, 37) == 37 * codes_bytes(engine, 1)


def test_bad_requests_are_rejected(generator):
    engine = Engine(generator)
    with pytest.raises(AlitokError, match="Class 6 does not exist; classes are 0 to 4"):
        engine.sample([SampleRequest(6)])
    with pytest.raises(AlitokError, match="at least one"):
        engine.sample([])


def test_a_batch_needs_what_any_row_needs():
    rows = RowSettings.of(requests(CONFIGS), 12, 20, torch.device("cpu"))
    assert rows.scales.shape == (7, 12)
    assert rows.kind == (7, True, True, True, True)


def test_kernels_are_chosen_once_for_each_class_of_rows(generator, monkeypatch):
    timed = []
    seconds = {"FusedRunner": 1.0, "Runner": 2.0}
    monkeypatch.setattr(Engine, "_seconds", lambda self, run, rows: timed.append(rows) or seconds[type(run).__name__])
    engine, plain = Engine(generator), SamplingConfig()
    for batch in (3, 16, 17, 40, 2, 64, 12):
        engine.sample(requests([plain] * batch))
        assert (engine.kernel_names == {"block": "fused"}) == (batch <= 16)
    assert timed == [3, 3, 16, 16]  # more rows are not for it
    assert not engine._runner.layers  # the weights of what lost are given back


def test_pytorch_samples_where_numba_cannot_be_used(generator, monkeypatch):
    def no_place(name):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr("alitok.sampling.engine.importlib", SimpleNamespace(import_module=no_place))
    engine = Engine(generator)
    assert torch.equal(engine.sample(requests(CONFIGS)), oracle.sample(generator, requests(CONFIGS)))
    assert "block" not in engine.kernel_names
    with pytest.raises(AlitokError, match=r"needs a CPU, no graphs, and Numba"):
        Engine(generator, kernel="fused")


def test_bad_engines_are_rejected(generator):
    with pytest.raises(AlitokError, match="Unknown kernel 'typo'; choose fused, plain, weight_first"):
        Engine(generator, kernel="typo")
    with pytest.raises(AlitokError, match="no graphs"):
        Engine(generator, kernel="fused", graphs=True)
    with pytest.raises(AlitokError, match="bfloat16"):
        Engine(model(SIZES["small"]).bfloat16())


def test_many_given_codes_are_read_in_portions():
    generator = model(SIZES["long"])
    given = tuple(range(10)) * 8
    asked = [SampleRequest(1, 3, 0, SamplingConfig(guidance_scale=3.0), given)]
    engine, counts = Engine(generator, kernel="plain"), []
    read = engine._reader

    def watched(tokens, *rest, **options):
        counts.append(tokens.shape[1])
        return read(tokens, *rest, **options)

    engine._reader = watched
    assert torch.equal(engine.sample(asked), oracle.sample(generator, asked))
    assert counts == [READ_AT_ONCE, READ_AT_ONCE, 81 - 2 * READ_AT_ONCE]
