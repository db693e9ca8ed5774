"""Shared by all tests: one compute thread, so that parallel runs do not fight, and the golden data's place."""

from pathlib import Path

import pytest
import torch

GOLDEN = Path(__file__).parents[2] / "shared" / "official_v1"


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)
