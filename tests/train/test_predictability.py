import math
from dataclasses import replace

import pytest
import torch

from alitok.core.config import from_dict
from alitok.core.errors import AlitokError
from alitok.generator import Generator, GeneratorConfig
from alitok.train.predictability import PredictabilityConfig, measure_predictability, predict_codes

GRID, PREFIX, V = 3, 1, 8
LENGTH = PREFIX + GRID**2
SMALL = PredictabilityConfig(steps=100, batch_size=32, layers=1, width=32, heads=2, learning_rate=1e-2)
TINY = replace(SMALL, steps=4, batch_size=8, width=8)
CPU = torch.device("cpu")


def run(codes, val, config=SMALL, seed=0, grid=GRID, prefix=PREFIX):
    return measure_predictability(
        codes, val, grid=grid, prefix=prefix, codebook_size=V, config=config, device=CPU, seed=seed
    )


def uniform(count, seed):
    return torch.randint(0, V, (count, LENGTH), generator=torch.Generator().manual_seed(seed))


def transitions(likely):
    """Each code has one successor of probability `likely`; the others share the rest."""
    successor = torch.randperm(V, generator=torch.Generator().manual_seed(5))
    table = torch.full((V, V), (1 - likely) / (V - 1))
    table[torch.arange(V), successor] = likely
    return table


def chain(count, table, seed):
    """Sequences that begin anywhere and follow the table."""
    draws = torch.Generator().manual_seed(seed)
    codes = [torch.randint(0, V, (count,), generator=draws)]
    for _ in range(LENGTH - 1):
        codes.append(torch.multinomial(table[codes[-1]], 1, generator=draws)[:, 0])
    return torch.stack(codes, dim=1)


@pytest.mark.parametrize("likely", [0.5, 0.9])
def test_a_markov_chain_is_measured_at_its_entropy_and_at_the_best_possible_accuracy(likely):
    table = transitions(likely)
    codes, val = chain(2048, table, 0), chain(512, table, 1)
    found = run(codes, val)
    before, after = val[:, :-1], val[:, 1:]
    # what the true probabilities need for just these sequences: no luck of the draw is left in the comparison
    best = math.log2(V) - table[before, after].log2().sum(1).mean().item()
    assert best - 0.05 < found.bits_per_image < best + 0.3
    rate = -(likely * math.log2(likely) + (1 - likely) * math.log2((1 - likely) / (V - 1)))
    assert found.bits_per_image == pytest.approx(math.log2(V) + (LENGTH - 1) * rate, abs=0.8)  # 3 deviations and more
    guessed = (table[before].argmax(-1) == after).sum().item()
    assert found.accuracy == pytest.approx((guessed + len(val) / V) / val.numel(), abs=0.01)
    assert found.train_accuracy == pytest.approx(likely * (1 - 1 / LENGTH) + 1 / V / LENGTH, abs=0.02)


def test_a_more_predictable_chain_takes_fewer_bits():
    config = replace(SMALL, steps=60)
    found = [
        run(chain(512, transitions(likely), 0), chain(128, transitions(likely), 1), config)
        for likely in (0.3, 0.6, 0.9)
    ]
    bits = [each.bits_per_image for each in found]
    assert bits[0] > bits[1] + 2 > bits[2] + 4
    assert found[0].accuracy < found[1].accuracy < found[2].accuracy


def test_uniform_codes_take_the_logarithm_of_the_codebook_and_not_less():
    found = run(uniform(2048, 0), uniform(512, 1))
    expected = LENGTH * math.log2(V)
    assert expected - 0.02 < found.bits_per_image < expected + 0.15
    assert found.accuracy == pytest.approx(1 / V, abs=0.02)


def test_memorized_codes_do_not_help_and_the_last_step_is_reported():
    found = run(uniform(4, 0), uniform(128, 1))
    assert found.train_accuracy > 0.7  # four different beginnings at most can be reported apart
    assert found.accuracy == pytest.approx(1 / V, abs=0.06)
    assert found.bits_per_image > LENGTH * math.log2(V) + 5  # at the first step it was the logarithm


def test_prefix_and_grid_are_separate():
    codes, val = uniform(512, 0), uniform(128, 1)
    of_grid = GRID**2 * math.log2(V)
    codes[:, :PREFIX] = val[:, :PREFIX] = 3
    found = run(codes, val)
    assert found.grid_bits_per_image == pytest.approx(of_grid, abs=0.4)
    assert found.bits_per_image - found.grid_bits_per_image < 0.05
    assert (len(found.nats), len(found.accuracy_by_position)) == (LENGTH, LENGTH)
    assert found.accuracy_by_position[0] == 1 > max(found.accuracy_by_position[1:])
    assert found.nats[0] < 0.05 < math.log(V) - 0.1 < min(found.nats[1:])
    assert sum(found.nats) / math.log(2) == pytest.approx(found.bits_per_image)
    assert sum(found.accuracy_by_position) / LENGTH == pytest.approx(found.accuracy)
    no_prefix = run(codes[:, PREFIX:], val[:, PREFIX:], TINY, prefix=0)
    assert no_prefix.bits_per_image == no_prefix.grid_bits_per_image


def test_the_same_seed_gives_the_same_numbers_and_another_gives_others():
    codes, val = uniform(32, 0), uniform(16, 1)
    first = run(codes, val, TINY)
    torch.manual_seed(99)
    assert run(codes, val, TINY) == first
    assert run(codes, val, TINY, seed=1) != first


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_the_mode_of_the_caller_neither_matters_nor_changes(mode):
    expected = run(uniform(32, 0), uniform(16, 1), TINY)
    with mode():
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
        assert run(uniform(32, 0), uniform(16, 1), TINY) == expected
        after = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
    assert after == modes


def test_global_randomness_and_the_codes_stay_as_they_were():
    codes, val = uniform(32, 0), uniform(16, 1)
    copies, state = (codes.clone(), val.clone()), torch.get_rng_state()
    run(codes, val, TINY)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(codes, copies[0])
    assert torch.equal(val, copies[1])


def test_the_rate_warms_up_for_a_tenth_and_ends_at_zero():
    phase = PredictabilityConfig().phase()
    assert (phase.steps, phase.warmup_steps, phase.learning_rate, phase.final_learning_rate) == (300, 30, 1e-3, 0)
    assert run(uniform(4, 0), uniform(4, 1), replace(TINY, steps=1)).bits_per_image > 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"every": -1},
        {"images": 0},
        {"val_images": 0},
        {"steps": 0},
        {"batch_size": 0},
        {"layers": 0},
        {"width": 130},
        {"heads": 0},
        {"learning_rate": 0.0},
    ],
)
def test_values_out_of_range_are_rejected(wrong):
    with pytest.raises(AlitokError, match=next(iter(wrong))):
        PredictabilityConfig(**wrong)
    with pytest.raises(AlitokError, match=next(iter(wrong))):
        from_dict(PredictabilityConfig, wrong, "run.toml")


def test_prediction_equals_single_images_code_by_code_for_any_batch_size():
    generator = Generator(GeneratorConfig(grid=2, prefix=1, codebook_size=6, classes=3, layers=1, width=8, heads=2))
    for parameter in generator.eval().parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    codes, classes = torch.randint(0, 6, (7, 5)), torch.arange(7) % 3
    expected, hits = torch.zeros(7, 5), torch.zeros(7, 5, dtype=torch.bool)
    for n in range(7):
        for t in range(5):
            logits = generator(codes[None, n, :t], classes[n, None])[0, -1].detach()
            expected[n, t] = -logits.log_softmax(-1)[codes[n, t]]
            hits[n, t] = logits.argmax() == codes[n, t]
    for batch_size in (1, 3, 100):
        found = predict_codes(generator, codes, classes, batch_size)
        assert (found.nats.dtype, found.correct.dtype) == (torch.float64, torch.bool)
        assert torch.allclose(found.nats.float(), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(found.correct, hits)
        assert found.bits_per_image()[2].item() == pytest.approx(expected[2].sum().item() / math.log(2), rel=1e-4)
    other = predict_codes(generator, codes, (classes + 1) % 3, 100)
    assert not torch.allclose(other.nats, found.nats)
