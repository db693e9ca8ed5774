import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from alitok.data.split import val_mask


@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.integers(2, 40), min_size=1, max_size=5), share=st.floats(0.0, 1.0), seed=st.integers())
def test_every_class_keeps_and_holds_out_its_share(counts, share, seed):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    mask = val_mask(labels, share, seed)
    for label, count in enumerate(counts):
        held = int(mask[labels == label].sum())
        assert 1 <= held <= count - 1
        assert abs(held - share * count) <= 1


def test_a_class_of_one_image_is_never_val():
    assert val_mask(np.array([4, 2, 2]), 0.5, 0).tolist().count(True) == 1
    assert not val_mask(np.array([0, 1, 2]), 0.9, 0).any()


def test_what_is_drawn_of_a_class():
    """The draw by its definition, class by class."""
    labels = np.random.default_rng(1).integers(0, 7, 300)
    expected = np.zeros(300, bool)
    for label in range(7):
        rows = [row for row in range(300) if labels[row] == label]
        expected[np.random.default_rng([5, label]).choice(rows, round(0.1 * len(rows)), replace=False)] = True
    assert (val_mask(labels, 0.1, 5) == expected).all()
