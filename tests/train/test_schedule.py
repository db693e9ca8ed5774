import math

import pytest

from alitok.core.errors import AlitokError
from alitok.train.schedule import Convergence, Phase, Progress, learning_rate


def test_rate_warms_up_linearly_and_falls_along_half_a_cosine():
    phase = Phase(steps=111, learning_rate=1.0, final_learning_rate=0.1, warmup_steps=10)
    rates = [learning_rate(step, phase) for step in range(111)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.55)
    assert rates[35] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert rates[110] == pytest.approx(0.1)


def test_progress_walks_through_the_phases_and_continues_from_its_state():
    phases = (Phase(steps=2, learning_rate=1.0, final_learning_rate=1.0), Phase(steps=3))
    seen, progress = [], Progress(phases)
    while not progress.done:
        seen.append((progress.phase, progress.phase_step, progress.step))
        progress.advance()
        progress = Progress(phases, **progress.state())
        assert progress.total == 5
    assert seen == [(0, 0, 0), (0, 1, 1), (1, 0, 2), (1, 1, 3), (1, 2, 4)]


def ended_at(losses, **rule):
    progress = Progress((Phase(steps=1000, converged=Convergence(**rule)), Phase(steps=1)))
    for number, loss in enumerate(losses, start=1):
        if progress.advance(loss):
            assert progress.phase == 1
            assert progress.total == number + 1
            return number
    return None


def test_a_phase_ends_when_a_window_is_hardly_better_than_the_one_before():
    falling = [1 / (1 + step) for step in range(100)]
    assert ended_at(falling, window=10, improvement=0.05) is None
    assert ended_at([*falling[:20], *[1.0] * 50], window=10, improvement=0.0) == 30
    assert ended_at([1.0] * 50, window=10, improvement=0.0) is None  # not worse
    assert ended_at([1.0] * 50, window=10, improvement=0.01) == 20
    # Below zero, where a GAN's loss may be, better is still lower.
    assert ended_at([-1.0] * 10 + [-1.2] * 10 + [-1.2] * 10, window=10, improvement=0.1) == 30


@pytest.mark.parametrize(
    ("wrong", "output"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"steps": 5, "warmup_steps": 6}, "warmup_steps 6 must not exceed"),
        ({"steps": 5, "learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"steps": 5, "learning_rate": math.nan}, "learning_rate must be above 0"),
        ({"steps": 5, "final_learning_rate": -1.0}, "final_learning_rate must be at least 0"),
    ],
)
def test_phases_out_of_range_are_rejected(wrong, output):
    with pytest.raises(AlitokError, match=output):
        Phase(**wrong)
