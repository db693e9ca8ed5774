"""Shared by all tests: one compute thread, so that parallel runs do not fight, and a seed."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)
