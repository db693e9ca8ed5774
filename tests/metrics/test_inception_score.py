import math

import pytest
import torch

from alitok.core.errors import AlitokError
from alitok.metrics.inception_score import InceptionScore


def _probabilities(count, classes=7, sharpness=3.0):
    return (torch.randn(count, classes, dtype=torch.float64) * sharpness).softmax(1)


def _slow(probabilities, split):
    """The definition, by loops: exp of the mean of KL(p || q), each split with its own q."""
    scores = []
    for start in range(0, len(probabilities), split):
        rows = probabilities[start : start + split].tolist()
        q = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        divergences = [sum(p * math.log(p / m) for p, m in zip(row, q, strict=True) if p > 0) for row in rows]
        scores.append(math.exp(sum(divergences) / len(rows)))
    return sum(scores) / len(scores)


@pytest.mark.parametrize(("count", "splits"), [(100, 3), (90, 3), (25, 1)])
def test_it_equals_the_definition_with_a_shorter_last_split(count, splits):
    probabilities = _probabilities(count)
    score = InceptionScore(7, split=count if splits == 1 else 40 if count == 100 else 30)
    for part in probabilities.split(11):
        score.update(part)
    assert score.score().mean == pytest.approx(_slow(probabilities, score.split), rel=1e-12)
    assert score.score().splits == splits


def test_equal_to_torch_fidelity():
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = torch.randn(200, 50) * 2
    theirs = isc_features_to_metric(logits, splits=4, shuffle=False)
    score = InceptionScore(50, split=50)
    score.update(logits.double().softmax(1))
    assert score.score().mean == pytest.approx(theirs["inception_score_mean"], rel=1e-12)
    assert score.score().std == pytest.approx(theirs["inception_score_std"], rel=1e-9)


def test_confident_and_balanced_gives_the_number_of_classes_and_uniform_gives_one():
    sure, unsure = InceptionScore(5), InceptionScore(5)
    sure.update(torch.eye(5).repeat(10, 1))
    unsure.update(torch.full((50, 5), 0.2))
    assert sure.score().mean == pytest.approx(5)
    assert unsure.score().mean == pytest.approx(1)
    assert sure.score().std == 0


def test_splits_follow_sample_numbers_not_arrival_order():
    probabilities, order = _probabilities(100), torch.randperm(100)
    score = InceptionScore(7, split=30)
    for part in order.split(9):
        score.update(probabilities[part], part)
    assert score.score().mean == pytest.approx(_slow(probabilities, 30), rel=1e-12)


def test_all_reduce_covers_the_samples_of_all_processes(together):
    probabilities = _probabilities(100)

    def work(world):
        score, mine = InceptionScore(7, split=30), torch.arange(100)[world.rank :: world.size]
        if world.main:
            mine = mine[: len(mine) // 2]  # ends in an earlier split than the other
        score.update(probabilities[mine], mine)
        return score.all_reduced(world).score()

    kept = torch.cat([torch.arange(0, 50, 2), torch.arange(1, 100, 2)]).sort().values
    wanted = InceptionScore(7, split=30)
    wanted.update(probabilities[kept], kept)
    for found in together(work):
        assert found == pytest.approx(wanted.score(), rel=1e-9)


def test_no_samples_and_nan_are_rejected():
    score = InceptionScore(3)
    score.update(torch.zeros(0, 3))
    with pytest.raises(AlitokError, match="needs at least one sample"):
        score.score()
    with pytest.raises(AlitokError, match="of 1 of 2 samples are not finite"):
        score.update(torch.tensor([[0.2, 0.3, 0.5], [torch.nan, 0, 1]]))
