"""The directory of an evaluation."""

import numpy as np
import torch

from alitok.apps.evaluate.job import discard_tree, job_dir
from alitok.core.blocks import Blocks
from alitok.core.distributed import World
from alitok.metrics.feature_files import FeatureFiles


def test_only_what_evaluations_wrote_is_deleted(tmp_path):
    root = tmp_path / "out"
    for job in (root, root / "reference" / "a", root / "sweep" / "b"):
        job_dir(job).begin({"seed": 1}, World(torch.device("cpu")))
        FeatureFiles(job / "features", Blocks(4, 4)).write(0, {"pool": np.zeros((4, 3))})
    (root / "features" / ".block-00001.npz.host-12.part").write_bytes(b"half")
    (root / "evaluation.json").write_text("{}")
    (root / "features" / "notes.txt").write_text("mine")
    discard_tree(root)
    assert [path for path in root.rglob("*") if path.is_file()] == [root / "features" / "notes.txt"]
    (root / "features" / "notes.txt").unlink()
    (root / "features").rmdir()
    discard_tree(root)
    assert not root.exists()
