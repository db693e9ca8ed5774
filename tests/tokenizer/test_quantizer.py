import math

import torch

from alitok.tokenizer.quantizer import Candidates, VectorQuantizer


def test_codes_are_the_nearest_by_brute_force():
    quantizer = VectorQuantizer(20, 4)
    torch.nn.init.normal_(quantizer.codebook)
    features = torch.randn(3, 7, 4)
    codes = quantizer(features).codes
    for b in range(3):
        for t in range(7):
            distances = [math.dist(features[b, t].tolist(), entry.tolist()) for entry in quantizer.codebook]
            assert codes[b, t] == min(range(20), key=distances.__getitem__)


def test_loss_and_gradients_equal_the_formula():
    quantizer = VectorQuantizer(20, 4)
    torch.nn.init.normal_(quantizer.codebook)
    features = torch.randn(3, 7, 4, requires_grad=True)
    result = quantizer(features)
    difference = features.detach() - quantizer.codebook.detach()[result.codes]
    assert torch.allclose(result.loss, 1.25 * difference.square().mean())
    result.loss.backward()
    # Commitment reaches the features with weight 0.25, the codebook term reaches the codebook only.
    assert torch.allclose(features.grad, 0.25 * 2 * difference / difference.numel(), atol=1e-7)
    expected = torch.zeros(20, 4).index_add_(0, result.codes.flatten(), -2 * difference.flatten(0, 1))
    assert torch.allclose(quantizer.codebook.grad, expected / difference.numel(), atol=1e-7)


def test_straight_through_copies_gradients():
    quantizer = VectorQuantizer(20, 4)
    features = torch.randn(2, 3, 4, requires_grad=True)
    result = quantizer(features)
    assert torch.allclose(result.vectors, quantizer.lookup(result.codes), atol=1e-6)
    weights = torch.randn(2, 3, 4)
    (result.vectors * weights).sum().backward()
    assert torch.equal(features.grad, weights)


def test_distances_stay_in_float32_under_autocast():
    quantizer = VectorQuantizer(512, 8)
    torch.nn.init.normal_(quantizer.codebook)
    features = torch.randn(4, 50, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = quantizer.nearest(features)
    assert torch.equal(inside, quantizer.nearest(features))


def test_clustering_equals_the_rule_for_each_code():
    quantizer = VectorQuantizer(6, 2)
    torch.nn.init.normal_(quantizer.codebook)
    quantizer.usage.copy_(torch.tensor([0.0, 1e-5, 1e-4, 1e-3, 0.1, 0.9]))
    features = torch.randn(2, 5, 2)
    before, usage = quantizer.codebook.detach().clone(), quantizer.usage.clone()
    codes = quantizer.nearest(features).flatten().tolist()
    flat = features.flatten(0, 1)
    quantizer.cluster(quantizer.candidates(features))
    for k in range(6):
        running = 0.99 * usage[k].item() + 0.01 * codes.count(k) / 10
        move = math.exp(-10 * 6 * running / 0.01 - 1e-3)
        closest = min(flat.tolist(), key=lambda point, k=k: math.dist(point, before[k].tolist()))
        assert abs(quantizer.usage[k].item() - running) < 1e-7
        expected = (1 - move) * before[k] + move * torch.tensor(closest)
        assert torch.allclose(quantizer.codebook[k], expected, atol=1e-5)


def test_the_first_step_moves_unused_codes_onto_features_and_keeps_used_ones():
    quantizer = VectorQuantizer(50, 3)
    features = torch.randn(1, 40, 3) + 10
    used = torch.zeros(50, dtype=torch.bool)
    used[quantizer.nearest(features).flatten()] = True
    before = quantizer.codebook.detach().clone()
    quantizer.cluster(quantizer.candidates(features))
    after = quantizer.codebook.detach()
    assert (after[~used] - 10).abs().max() < 5
    assert torch.allclose(after[used], before[used], atol=1e-2)


def test_forward_changes_nothing():
    quantizer = VectorQuantizer(50, 3)
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer.train()(torch.randn(1, 40, 3))
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


def quantizer_of(codebook, usage):
    quantizer = VectorQuantizer(*codebook.shape)
    with torch.no_grad():
        quantizer.codebook.copy_(codebook)
        quantizer.usage.copy_(usage)
    return quantizer


def clustered(features, codebook, usage, blocks):
    """One step with the features in blocks."""
    quantizer = quantizer_of(codebook, usage)
    found = Candidates.none(*codebook.shape, features.device)
    for block in features.split(blocks):
        found = found.merge(quantizer.candidates(block))
    quantizer.cluster(found)
    return quantizer.codebook.detach(), quantizer.usage


def test_clustering_over_microbatches_equals_clustering_over_all_at_once():
    codebook, usage, features = torch.randn(64, 4), torch.rand(64) * 1e-4, torch.randn(12, 9, 4)
    whole, cut = clustered(features, codebook, usage, 12), clustered(features, codebook, usage, 5)
    for one, other in zip(whole, cut, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_of_equally_near_features_the_first_wins():
    quantizer = VectorQuantizer(1, 2)
    torch.nn.init.zeros_(quantizer.codebook)
    left, right = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[5.0, 0.0]]])
    found = quantizer.candidates(left).merge(quantizer.candidates(right))
    assert found.features.tolist() == [[3.0, 4.0]]
    assert (found.counts.item(), found.distances.item()) == (2, 25.0)


def test_two_processes_cluster_like_one_on_the_joint_batch(together):
    codebook, usage, features = torch.randn(64, 4), torch.rand(64) * 1e-4, torch.randn(12, 9, 4)
    features[6] = features[0]  # the same features on both ranks: those of rank 0 win

    def work(world):
        quantizer = quantizer_of(codebook, usage)
        for step in range(3):
            mine = (features + step)[world.rank * 6 : world.rank * 6 + 6]
            quantizer.cluster(quantizer.candidates(mine).all_reduced(world))
        return quantizer.codebook.detach().numpy(), quantizer.usage.numpy()

    joined = quantizer_of(codebook, usage)
    for step in range(3):
        joined.cluster(joined.candidates(features + step))
    ranks = together(work)
    for entries, usage in ranks:
        assert abs(entries - joined.codebook.detach().numpy()).max() < 1e-6
        assert abs(usage - joined.usage.numpy()).max() < 1e-7
    assert (ranks[0][0] == ranks[1][0]).all()
    assert (ranks[0][1] == ranks[1][1]).all()


def test_block_size_changes_nothing(monkeypatch):
    quantizer = VectorQuantizer(64, 4)
    torch.nn.init.normal_(quantizer.codebook)
    features = torch.randn(3, 50, 4)
    whole = quantizer.candidates(features), quantizer.nearest(features)
    monkeypatch.setattr("alitok.tokenizer.quantizer._ROWS", 17)
    cut = quantizer.candidates(features), quantizer.nearest(features)
    assert torch.equal(whole[1], cut[1])
    assert torch.equal(whole[0].counts, cut[0].counts)
    assert torch.equal(whole[0].features, cut[0].features)
