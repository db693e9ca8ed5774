import pytest
import torch

from alitok.generator import Generator, GeneratorConfig, SamplingConfig, engine, oracle
from alitok.generator.sampling import picture_uniforms


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(3)
    config = GeneratorConfig(grid=3, prefix=3, codebook_size=20, classes=5, layers=2, width=16, heads=2)
    model = Generator(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


CONFIGS = [
    SamplingConfig(),
    SamplingConfig(guidance_scale=4.0, guidance_power=0.7),
    SamplingConfig(guidance_scale=3.0, temperature=0.8, top_k=5),
    SamplingConfig(guidance_scale=2.0, top_p=0.8),
    SamplingConfig(guidance_scale=3.0, temperature=0.0),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_engine_draws_what_the_oracle_draws(generator, config):
    classes = torch.tensor([0, 1, 2, 3, 4, 0])
    uniforms = picture_uniforms(1, range(6), 12)
    expected = oracle.sample(generator, classes, uniforms, config)
    assert torch.equal(engine.sample(generator, classes, uniforms, config), expected)
    assert expected.shape == (6, 12)
    assert len(expected.unique(dim=0)) > 1


def test_a_picture_does_not_depend_on_its_batch(generator):
    classes, config = torch.tensor([0, 1, 2, 3, 4]), SamplingConfig(guidance_scale=3.0)
    together = engine.sample(generator, classes, picture_uniforms(5, range(5), 12), config)
    for picture in range(5):
        alone = engine.sample(generator, classes[picture : picture + 1], picture_uniforms(5, [picture], 12), config)
        assert torch.equal(alone[0], together[picture])


def test_draws_follow_the_models_own_distribution(generator):
    """The share of first codes over many draws is the softmax of the first logits."""
    classes = torch.zeros(4000, dtype=torch.int64)
    codes = engine.sample(generator, classes, picture_uniforms(0, range(4000), 12), SamplingConfig())
    with torch.no_grad():
        expected = generator(codes[:1, :0], classes[:1])[0, 0].softmax(-1)
    share = torch.bincount(codes[:, 0], minlength=20) / 4000
    assert torch.allclose(share, expected, atol=0.03)
