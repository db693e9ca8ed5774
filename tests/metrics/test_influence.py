"""Influence of patches on codes: known dependencies come out as they are, and ours against loops over single pairs."""

import dataclasses

import numpy as np
import pytest
import torch

from alitok.core.errors import AlitokError
from alitok.metrics.dependency import FUTURE, OWN, PAST, Raster, Tally, choose_perturbations
from alitok.metrics.influence import influence_of
from alitok.tokenizer import DecoderConfig, EncoderConfig, Tokenizer
from alitok.tokenizer.model import TokenizerCodec
from tiny import TOKENIZER

GRID, SIDE, V, V_SMALL = 3, 6, 65521, 36
PATCHES = GRID**2


def some_images(count=20, seed=0, side=SIDE):
    return torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(seed)) / 255


def patches(images, grid=GRID):
    """(B, 3, h, h) -> whole numbers (B, P, values)."""
    side = images.shape[-1] // grid
    cut = images.reshape(len(images), 3, grid, side, grid, side).permute(0, 2, 4, 1, 3, 5)
    return (cut.reshape(len(images), grid**2, -1) * 255).round().long()


class Masked:
    """Code i is a hash of the patches that row i of a mask (T, P) names, so a changed one among them changes it."""

    def __init__(self, mask):
        self.mask = torch.as_tensor(np.asarray(mask)).long()

    def encode(self, images):
        values = patches(images)
        places = 1 + torch.arange(values.shape[2])
        hashes = (values * places * places).sum(2) * (7 + 2 * torch.arange(values.shape[1]))
        return hashes @ self.mask.T % V

    def decode(self, codes):
        return torch.zeros(len(codes), 3, SIDE, SIDE)


def fractions(found, group="grid", kind="codes"):
    return tuple(fraction.value for fraction in getattr(found, kind).fractions[group])


def ask(codec, images=None, **changes):
    settings = {"grid": GRID, "prefix": 0, "seed": 1, **changes}
    codec = TokenizerCodec(codec) if isinstance(codec, Tokenizer) else codec
    return influence_of(codec, some_images() if images is None else images, **settings)


EARLIER = np.tril(np.ones((PATCHES, PATCHES), int))
ADJACENT = np.tri(GRID, k=1) * np.tri(GRID, k=1).T
NEAR = np.kron(ADJACENT, ADJACENT)  # at most one row and one column away
CASES = {
    "its own patch": (np.eye(PATCHES), (1, 0, 0)),
    "all up to it": (EARLIER, (9 / 45, 36 / 45, 0)),
    "all after it": (1 - EARLIER, (0, 0, 1)),
    "its own and all after it": (EARLIER.T, (9 / 45, 0, 36 / 45)),
    "its neighbors": (NEAR, (9 / 49, 20 / 49, 20 / 49)),
    "all": (np.ones((PATCHES, PATCHES)), (1 / 9, 4 / 9, 4 / 9)),
    "shuffled": (np.eye(PATCHES)[[0, 2, 1, 3, 4, 8, 5, 7, 6]], (4 / 9, 3 / 9, 2 / 9)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_known_dependency_is_the_map_and_its_shares(case):
    mask, expected = CASES[case]
    found = ask(Masked(mask))
    assert np.array_equal(found.codes.mean, mask)
    assert not found.codes.error.any()
    assert fractions(found) == pytest.approx(expected)
    assert fractions(found, "all") == fractions(found)
    assert sum(fractions(found)) == pytest.approx(1)
    assert found.future_fraction == found.grid_future_fraction == fractions(found)[2]
    assert (found.exact, found.perturbations, found.images) == (True, 20 * PATCHES, 20)
    assert (found.patch_changed == 1).all()
    assert (found.features, found.probabilities) == (None, None)
    for fraction, uniform in zip(found.codes.fractions["grid"], (1 / 9, 4 / 9, 4 / 9), strict=True):
        assert fraction.uniform == pytest.approx(uniform)
        assert fraction.low <= fraction.value + 1e-12
        assert fraction.high >= fraction.value - 1e-12


@pytest.mark.parametrize(("prefix", "cells"), [(2, [0, 1]), (3, [0, 1, 2]), (5, [0, 0, 0, 1, 2])])
def test_prefix_codes_stand_for_the_first_row_and_have_shares_of_their_own(prefix, cells):
    raster = Raster(GRID, prefix)
    assert raster.cells().tolist() == cells + list(range(PATCHES))
    mask = np.concatenate([np.ones((prefix, PATCHES)), np.eye(PATCHES)])
    found = ask(Masked(mask), prefix=prefix)
    assert found.codes.mean.shape == (raster.length, PATCHES)
    assert fractions(found, "grid") == (1, 0, 0)
    total, before = prefix * PATCHES, sum(cells)
    assert fractions(found, "prefix") == pytest.approx((1 / 9, before / total, 1 - 1 / 9 - before / total))
    later = total - prefix - before
    assert found.future_fraction == pytest.approx(later / (total + PATCHES))
    uniform = found.codes.fractions["prefix"].future.uniform
    assert uniform == pytest.approx(later / total)


def test_directions_in_raster_order_and_in_that_of_the_sequence():
    raster = Raster(2, 2)
    own, past, future = OWN, PAST, FUTURE
    grid = [[own, future, future, future], [past, own, future, future], [past, past, own, future], [past] * 3 + [own]]
    assert raster.directions().tolist() == grid[:2] + grid
    assert raster.directions_in_sequence().tolist() == [grid[0], [future, own, future, future], *grid]


def model(causal=False, prefix=3):
    torch.manual_seed(3)
    small = {"width": 16, "layers": 2, "heads": 2}
    config = dataclasses.replace(
        TOKENIZER,
        image_size=12,
        prefix=prefix,
        codebook_size=V_SMALL,
        encoder=EncoderConfig(**small, causal=causal),
        stage1=DecoderConfig(**small, causal=True, extra_tokens=1),
        stage2=None,
    )
    found = Tokenizer(config).eval()
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    with torch.no_grad():  # a codebook of features, so that codes depend on the image
        features = found.encoder(some_images(V_SMALL, seed=9, side=12))
        found.quantizer.codebook.copy_(features[torch.arange(V_SMALL), torch.arange(V_SMALL) % features.shape[1]])
    return found


@pytest.mark.parametrize("per_patch", [None, 4])
@torch.no_grad()
def test_all_three_maps_equal_loops_over_single_pairs(per_patch):
    tokenizer, images = model(), some_images(7, side=12)
    found = ask(tokenizer, images, prefix=3, per_patch=per_patch, batch_size=5)
    perturbations = choose_perturbations(7, PATCHES, per_patch, 1)
    codebook = tokenizer.quantizer.codebook
    plain = torch.stack([tokenizer.encoder(image[None])[0] for image in images])  # (N, T, D)
    squared = torch.stack([tokenizer.quantizer.lookup(tokenizer.encode(image[None]))[0] for image in images]) - plain
    temperature = 2 * squared.square().sum(-1).mean() / 4
    apart = torch.stack([(plain[a] - plain[b]).norm(dim=-1) for a in range(7) for b in range(a)]).mean(0)
    changes = {"codes": [], "features": [], "probabilities": []}
    for index, position, donor in zip(perturbations.images, perturbations.positions, perturbations.donors, strict=True):
        assert index != donor
        rows, columns = (slice(4 * each, 4 * each + 4) for each in divmod(int(position), GRID))
        image = images[index].clone()
        image[:, rows, columns] = images[donor][:, rows, columns]
        after, before = tokenizer.encoder(image[None])[0], plain[index]
        near, far = (torch.cdist(each, codebook).square() for each in (before, after))
        changes["codes"].append(near.argmin(1) != far.argmin(1))
        changes["features"].append((after - before).norm(dim=-1) / apart)
        likely = [(-each / temperature).softmax(1) for each in (near, far)]
        changes["probabilities"].append((likely[0] - likely[1]).abs().sum(1) / 2)
    cells = np.array([0, 1, 2, *range(PATCHES)])
    for kind, each in changes.items():
        values = torch.stack(each).double().numpy()  # (M, T)
        some = [values[perturbations.positions == position] for position in range(PATCHES)]
        mean, map_ = np.stack([part.mean(0) for part in some], 1), getattr(found, kind)
        assert map_.mean == pytest.approx(mean, rel=1e-3, abs=1e-5)
        error = np.stack([part.std(0, ddof=1) / len(part) ** 0.5 for part in some], 1)
        assert map_.error == pytest.approx(error, rel=1e-3, abs=1e-4)
        later = np.arange(PATCHES) > cells[:, None]
        assert fractions(found, "all", kind)[2] == pytest.approx(mean[later].sum() / mean.sum(), rel=1e-3)
        assert fractions(found, "grid", kind)[2] == pytest.approx(mean[3:][later[3:]].sum() / mean[3:].sum(), rel=1e-3)
        assert 0 < mean.mean() < 1
    assert found.probabilities.mean.max() <= 1
    assert found.exact is (per_patch is None)


def test_a_causal_encoder_hears_nothing_of_the_future_and_a_bidirectional_one_does():
    images = some_images(12, side=12)
    causal, both = (ask(model(causal), images, prefix=3) for causal in (True, False))
    later = Raster(GRID, 3).directions() == FUTURE
    for kind in ("codes", "features", "probabilities"):
        assert not getattr(causal, kind).mean[later].any()
        for group in ("all", "grid", "prefix"):
            assert fractions(causal, group, kind)[2] == 0
            assert fractions(causal, group, kind)[0] > 0
            assert fractions(both, group, kind)[2] > 0.1
        assert fractions(causal, "grid", kind)[1] > 0.1


def test_a_sample_agrees_with_all_pairs_within_its_error():
    tokenizer, images = model(), some_images(60, side=12)
    exact, sampled = (ask(tokenizer, images, prefix=3, per_patch=each) for each in (None, 20))
    assert (exact.perturbations, sampled.perturbations) == (60 * PATCHES, 20 * PATCHES)
    assert (exact.exact, sampled.exact) == (True, False)
    for kind in ("codes", "features", "probabilities"):
        whole, part = getattr(exact, kind), getattr(sampled, kind)
        # a third of the pairs are the sample's own: what is left of its error is sqrt(2/3) of that of an endless one
        ratio = np.sqrt(np.square(part.mean - whole.mean).sum() / np.square(part.error).sum())
        assert 0.6 < ratio < 1.05
        for one, other in zip(part.fractions["grid"], whole.fractions["grid"], strict=True):
            assert one.low <= other.value <= one.high


def test_pairs_of_a_sample_are_some_of_all_and_cover_each_place_equally():
    whole, part = choose_perturbations(30, 150, 30, 5), choose_perturbations(30, 150, None, 5)
    assert (len(whole), whole.exact) == (30 * 150, True)
    assert (len(part), part.exact) == (16 * 150, False)
    assert (part.per_position() == 16).all()
    triples = [set(zip(each.images, each.positions, each.donors, strict=True)) for each in (whole, part)]
    assert triples[1] < triples[0]
    assert len(triples[1]) == len(part)
    assert (part.images != part.donors).all()
    assert (np.diff(part.images) >= 0).all()
    assert np.bincount(whole.donors).min() > 100
    assert choose_perturbations(10, 150, None, 5).exact, "all of few images"
    assert choose_perturbations(200, 100, None, 5).exact
    assert not np.array_equal(choose_perturbations(30, 150, None, 6).donors, part.donors)


@pytest.mark.parametrize("batch_size", [2, 3, 64, 1000])
def test_the_size_of_a_call_changes_nothing(batch_size):
    sizes = []

    class Counting(TokenizerCodec):
        def features(self, images):
            sizes.append(len(images))
            return super().features(images)

    images, codec = some_images(6, side=12), Counting(model())
    expected = ask(model(), images, prefix=3, batch_size=11)
    found = ask(codec, images, prefix=3, batch_size=batch_size)
    assert max(sizes) <= batch_size
    for kind in ("codes", "features", "probabilities"):
        assert getattr(found, kind).mean == pytest.approx(getattr(expected, kind).mean, rel=1e-4, abs=1e-6)
        assert fractions(found, "all", kind) == pytest.approx(fractions(expected, "all", kind), rel=1e-4)


def test_the_same_seed_gives_the_same_map_and_global_randomness_plays_no_part():
    images, tokenizer, state = some_images(6, side=12), model(), torch.get_rng_state()
    first = ask(tokenizer, images, prefix=3)
    torch.manual_seed(9)
    again, other = (ask(tokenizer, images, prefix=3, seed=seed) for seed in (1, 2))
    assert np.array_equal(again.features.mean, first.features.mean)
    assert again.codes.fractions == first.codes.fractions
    assert not np.array_equal(other.features.mean, first.features.mean)
    torch.set_rng_state(state)
    assert torch.equal(images, some_images(6, side=12)), "images stay as they were"


def test_features_of_another_tokenizer_are_used_and_a_position_that_never_moves_is_not_moved():
    class WithFeatures(Masked):
        def features(self, images):
            means = patches(images).float().mean(2, keepdim=True)
            means[:, 4] = 3.0
            return means

    found = ask(WithFeatures(np.eye(PATCHES)))
    moving = np.eye(PATCHES, dtype=bool)
    moving[4, 4] = False
    assert (found.features.mean > 0).tolist() == moving.tolist()
    assert np.diag(found.features.mean)[moving.diagonal()] == pytest.approx(1, abs=0.4)  # as far as two images are
    assert found.probabilities is None


def test_patches_that_are_the_same_everywhere_have_no_influence_and_are_reported():
    images = some_images()
    images[:, :, :2, :2] = 0
    found = ask(Masked(np.ones((PATCHES, PATCHES))), images)
    assert found.patch_changed.tolist() == [0] + [1] * 8
    assert not found.codes.mean[:, 0].any()
    same = ask(Masked(np.eye(PATCHES)), images[:1].expand(5, -1, -1, -1))
    assert np.isnan(same.future_fraction)
    assert all(np.isnan(fraction[:3]).all() and fraction.uniform > 0 for fraction in same.codes.fractions["grid"])


def test_the_interval_is_that_of_a_ratio_over_images():
    random = np.random.default_rng(0)
    perturbations = choose_perturbations(400, 2, None, 0)
    tally = Tally(perturbations, np.array([[OWN, FUTURE], [PAST, OWN]]), np.zeros((2, 2), bool))
    strength = random.gamma(2.0, 1.0, 400)
    changes = strength[perturbations.images, None] * random.random((len(perturbations), 2))
    tally.add(np.arange(len(perturbations)), torch.from_numpy(changes))
    found = tally.dependency(seed=0)
    first = perturbations.positions == 0
    own = changes[first, 0] + changes[~first, 1]
    total = changes[first].sum(1) + changes[~first].sum(1)
    ratio = own.sum() / total.sum()
    error = np.std(own - ratio * total, ddof=1) / np.mean(total) / 400**0.5  # the delta method
    fraction = found.fractions["all"].own
    assert fraction.value == pytest.approx(ratio)
    assert fraction.low == pytest.approx(ratio - 1.96 * error, abs=0.25 * error)
    assert fraction.high == pytest.approx(ratio + 1.96 * error, abs=0.25 * error)


def test_progress_is_reported_to_the_end():
    told = []
    ask(Masked(np.eye(PATCHES)), batch_size=8, progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1] == (180, 180)


@pytest.mark.parametrize(
    ("count", "per_patch", "said"),
    [(1, None, "at least two images are needed, not 1"), (5, 1, "at least 2 images")],
)
def test_too_few_are_refused(count, per_patch, said):
    with pytest.raises(AlitokError, match=said):
        ask(Masked(np.eye(PATCHES)), some_images(count), per_patch=per_patch)
