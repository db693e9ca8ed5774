"""The device and precision of a run, and its randomness as a function of the step."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import torch

from alitok.core.choices import DeviceName, Precision
from alitok.core.errors import AlitokError


def choose_device(name: DeviceName = "auto") -> torch.device:
    """The device, `auto` being the first available of cuda, mps and cpu; AlitokError where it is not available."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    working = [candidate for candidate, works in available.items() if works]
    chosen = working[0] if name == "auto" else name
    if chosen not in working:
        raise AlitokError(f"Device {name} is not available; choose auto or one of: {', '.join(working)}.")
    return torch.device(chosen)


def computes_in_half(device: torch.device, precision: Precision = "auto") -> bool:
    """Whether forward passes are in bf16: if requested, or with `auto` on devices that support it natively."""
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16" or (precision == "auto" and native)


def in_double(device: torch.device) -> torch.device:
    """The device itself where it has float64, else the CPU: mps has none."""
    return torch.device("cpu") if device.type == "mps" else device


def autocast(device: torch.device, precision: Precision = "auto") -> torch.autocast:
    """bf16 autocast where `computes_in_half`, else nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=computes_in_half(device, precision))


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a GPU or, for the CPU, in the machine; None where unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    try:  # what the system would give up its caches for counts as free
        found = re.search(r"^MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found is not None:
        return int(found[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def seed_step(seed: int, purpose: str, step: int) -> None:
    """Seed torch's global generators by (seed, purpose, step), before every step: resuming needs no stored state."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{step}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "little", signed=True))
