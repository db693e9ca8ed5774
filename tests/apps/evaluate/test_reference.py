"""Statistics of real images in a file: what is in it, and that later evaluations take it."""

import numpy as np
import pytest

import alitok.apps.evaluate.reference as workflow
from alitok.apps.evaluate.options import ReferenceOptions
from alitok.apps.evaluate.reference import run_eval_reference
from alitok.core.errors import AlitokError
from alitok.metrics.reference import load_statistics


@pytest.fixture
def run(folder, tmp_path, extractor):
    """Saves statistics with these options."""

    def call(data=str(folder), **changes):
        options = {"out": tmp_path / "r.npz", "size": 16, "device": "cpu", **changes}
        run_eval_reference(data, ReferenceOptions(**options))

    return call


def test_the_file_holds_statistics_of_the_split_and_what_they_are_for(folder, cropped, features, run, tmp_path):
    run(split="all", kind="generation")
    found = load_statistics(tmp_path / "r.npz")
    pool = features(cropped(folder))
    assert found.moments["pool"].count == len(found.features) == 60
    np.testing.assert_allclose(found.moments["pool"].mean, pool.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.moments["pool"].covariance(), np.cov(pool.T), rtol=1e-4, atol=1e-9)
    assert set(found.moments) == {"pool", "spatial"}
    about = found.provenance
    assert (about.kind, about.network, about.resolution) == ("generation", "projections", 16)
    assert len(about.dataset) == len(about.images) == 16
    assert [path.name for path in tmp_path.iterdir()] == ["r.npz"]

    kinds = {"train": "generation", "val": "reconstruction"}
    counts, keys = [], set()
    for split, kind in kinds.items():
        for seed in (0, 1):
            run(split=split, seed=seed)
            found = load_statistics(tmp_path / "r.npz")
            assert found.provenance.kind == kind
            counts.append(found.moments["pool"].count)
            keys.add(found.provenance.images)
    assert counts == [54, 54, 6, 6]
    assert len(keys) == 4, "another seed holds out other images"


def test_a_start_that_was_stopped_is_continued_and_of_another_split_is_not(run, tmp_path, extractor, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(workflow, "save_statistics", lambda *words: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run()
    assert (tmp_path / "r.parts").is_dir()
    shown = extractor.shown
    run()
    assert extractor.shown == shown == 54
    assert not (tmp_path / "r.parts").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": "r.json"}, r"must end in \.npz"),
        ({"split": "all"}, "--split all needs --kind"),
        ({"size": 0}, "--size must be at least 1, not 0"),
        ({"size": -8}, "--size must be at least 1, not -8"),
        ({"size": 64}, "are about 16 px, smaller than the evaluated 64 px"),
        ({"data": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_a_reference_is_rejected(run, tmp_path, changes, message):
    if "out" in changes:
        changes = {"out": tmp_path / changes["out"]}
    with pytest.raises(AlitokError, match=message):
        run(**changes)
    assert list(tmp_path.iterdir()) == []
