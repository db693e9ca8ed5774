"""Reach of codes into the drawn image: known decoders, ours against loops over single pairs, causality as a zero."""

import dataclasses

import numpy as np
import pytest
import torch

from alitok.metrics.dependency import choose_perturbations
from alitok.metrics.reach import reach_of
from alitok.tokenizer import Tokenizer
from alitok.tokenizer.model import TokenizerCodec
from tiny import TOKENIZER

GRID, PREFIX, V = 3, 3, 24
PATCHES, LENGTH = GRID**2, PREFIX + GRID**2


def tokenizer():
    torch.manual_seed(0)
    found = Tokenizer(dataclasses.replace(TOKENIZER, image_size=12, codebook_size=V)).eval()
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return found


def some_codes(count=12, length=LENGTH, seed=0):
    return torch.randint(0, V, (count, length), generator=torch.Generator().manual_seed(seed))


def ask(codec, codes=None, **changes):
    settings = {"image_size": 12, "grid": GRID, "prefix": PREFIX, "seed": 2, **changes}
    codec = TokenizerCodec(codec) if isinstance(codec, Tokenizer) else codec
    return reach_of(codec, some_codes() if codes is None else codes, **settings)


def fractions(found, group="all"):
    return tuple(fraction.value for fraction in found.pixels.fractions[group])


class Painted:
    """Patch j is as bright as the sum of the codes that row j of a mask (P, T) names."""

    def __init__(self, mask):
        self.mask = torch.as_tensor(np.asarray(mask)).float()

    def encode(self, images):
        raise NotImplementedError

    def decode(self, codes):
        light = codes.float() @ self.mask.T / (V * self.mask.shape[1])
        bright = light.view(-1, 1, GRID, GRID).expand(-1, 3, -1, -1)
        return bright.repeat_interleave(4, 2).repeat_interleave(4, 3)


def test_a_code_that_draws_its_own_patch():
    codes = some_codes(length=PATCHES)
    found = ask(Painted(np.eye(PATCHES)), codes, prefix=0)
    assert fractions(found) == (pytest.approx(1), 0, 0)
    perturbations = choose_perturbations(12, PATCHES, None, 2)
    moved = (
        codes[perturbations.images, perturbations.positions] - codes[perturbations.donors, perturbations.positions]
    ).abs().numpy() / (V * PATCHES)
    expected = [moved[perturbations.positions == position].mean() for position in range(PATCHES)]
    assert found.pixels.mean == pytest.approx(np.diag(expected), rel=1e-4)
    assert found.code_changed == pytest.approx(
        [(moved[perturbations.positions == position] > 0).mean() for position in range(PATCHES)]
    )


def test_shares_follow_the_order_of_the_sequence():
    causal = np.tril(np.ones((PATCHES, LENGTH)), k=PREFIX)  # patch j is drawn from codes up to K + j
    found = ask(Painted(causal))
    assert (found.pixels.mean > 0).tolist() == (causal > 0).tolist()
    assert found.past_fraction == fractions(found, "grid")[1] == fractions(found, "prefix")[1] == 0
    assert fractions(found, "prefix")[0] == pytest.approx(1 / 9, abs=1e-6)
    everywhere = ask(Painted(np.ones((PATCHES, LENGTH))), some_codes(200))
    assert fractions(everywhere, "grid") == pytest.approx((1 / 9, 4 / 9, 4 / 9), abs=0.04)
    for group in ("all", "grid", "prefix"):
        for fraction, uniform in zip(fractions(everywhere, group), everywhere.pixels.fractions[group], strict=True):
            assert fraction == pytest.approx(uniform.uniform, abs=0.04)
    assert everywhere.pixels.fractions["prefix"].past.uniform == 0


@torch.no_grad()
def test_a_causal_decoder_never_looks_back_and_a_bidirectional_one_does():
    model = tokenizer()
    first, second = (ask(TokenizerCodec(model, stage)) for stage in ("stage1", "stage2"))
    assert first.past_fraction == 0
    earlier = np.arange(PATCHES)[:, None] + PREFIX < np.arange(LENGTH)
    assert not first.pixels.mean[earlier].any()
    assert (first.pixels.mean[~earlier] > 0).all()
    assert fractions(second, "grid")[1] > 0.1
    assert not second.pixels.mean[:, :PREFIX].any(), "prefix codes are not read"
    assert np.isnan(fractions(second, "prefix")).all()
    assert np.array_equal(ask(model).pixels.mean, second.pixels.mean), "the last decoder, unless another is asked for"


@pytest.mark.parametrize(("per_code", "batch_size"), [(None, 64), (5, 3)])
@torch.no_grad()
def test_equals_a_loop_over_single_pairs(per_code, batch_size):
    model, codes = tokenizer(), some_codes(8)
    found = ask(model, codes, per_code=per_code, batch_size=batch_size)
    perturbations = choose_perturbations(8, LENGTH, per_code, 2)
    changes = []
    for image, position, donor in zip(perturbations.images, perturbations.positions, perturbations.donors, strict=True):
        changed = codes[image].clone()
        changed[position] = codes[donor, position]
        difference = (model.decode(changed[None]) - model.decode(codes[image][None])).abs()[0]
        changes.append([difference[:, r : r + 4, c : c + 4].mean() for r in (0, 4, 8) for c in (0, 4, 8)])
    values = np.array(changes)
    some = [values[perturbations.positions == position] for position in range(LENGTH)]
    assert found.pixels.mean == pytest.approx(np.stack([part.mean(0) for part in some], 1), rel=1e-3, abs=1e-5)
    error = np.stack([part.std(0, ddof=1) / len(part) ** 0.5 for part in some], 1)
    assert found.pixels.error == pytest.approx(error, rel=1e-3, abs=1e-5)
    assert (found.exact, found.perturbations, found.images) == (per_code is None, (per_code or 8) * LENGTH, 8)
