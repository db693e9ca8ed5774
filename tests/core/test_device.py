import os
from pathlib import Path

import pytest
import torch

from alitok.core.device import autocast, choose_device, free_memory, in_double, seed_step
from alitok.core.errors import AlitokError


def test_auto_gives_a_device_that_computes():
    device = choose_device("auto")
    with autocast(device):
        assert torch.ones(2, device=device).sum().item() == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without cuda")
def test_a_missing_device_is_named_with_those_there_are():
    with pytest.raises(AlitokError, match=r"Device cuda.*auto or one of: .*cpu"):
        choose_device("cuda")


def test_the_seed_of_a_step_depends_on_all_three_parts():
    draws = set()
    for key in [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1)]:
        seed_step(*key)
        first = torch.rand(1).item()
        seed_step(*key)
        assert torch.rand(1).item() == first
        draws.add(first)
    assert len(draws) == 4


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="needs a system that tells of its memory")
def test_free_memory_is_a_part_of_what_there_is(monkeypatch):
    cpu = torch.device("cpu")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < free_memory(cpu) <= total
    assert free_memory(torch.device("mps")) is None

    def nothing(path):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", nothing)
    assert 0 < free_memory(cpu) <= total
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_AVPHYS_PAGES": 3, "SC_PAGE_SIZE": 1000}[name])
    assert free_memory(cpu) == 3000
    monkeypatch.delattr(os, "sysconf")
    assert free_memory(cpu) is None


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="needs Linux")
def test_caches_that_the_system_would_give_up_count_as_free(monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda path: "MemTotal:  99 kB\nMemFree:  1 kB\nMemAvailable:     7 kB\n")
    assert free_memory(torch.device("cpu")) == 7 * 1024


def test_float64_is_computed_where_there_is_any():
    assert in_double(torch.device("mps")) == torch.device("cpu")
    for name in ("cpu", "cuda:1"):
        assert in_double(torch.device(name)) == torch.device(name)
