"""Cells and ablations of made-up numbers."""

import dataclasses
import math

import numpy as np
import pytest

from alitok.apps.ablate.numbers import Ablation, CellNumbers

TITLES = {
    "A": "bidirectional decoder",
    "B": "causal decoder",
    "CE": "A with a causal encoder",
    "D": "C with the auxiliary loss",
    "E": "D trained longer",
    "F": "D with a stage-2 decoder",
    "V": "convolutional",
}


@pytest.fixture
def cell():
    """Makes cells that are alike except for the given numbers."""
    return _cell


def _cell(arm="A", codebook_size=256, seed=0, **changes):
    numbers = dict.fromkeys((field.name for field in dataclasses.fields(CellNumbers)), 0.5)
    numbers |= {"arm": arm, "codebook_size": codebook_size, "seed": seed, "image_psnr": (), "image_bits": ()}
    numbers |= {"bits": 80.0, "grid_bits": 80.0, "train_bits": 80.0, "psnr": 22.0, "codebook_perplexity": 100.0}
    return CellNumbers(**{**numbers, **changes})


@pytest.fixture
def seeds():
    """Makes cells of an arm whose numbers are lists, one per seed, or the same for all."""
    return lambda arm, count, **numbers: [
        _cell(
            arm,
            seed=seed,
            **{name: value[seed] if isinstance(value, list) else value for name, value in numbers.items()},
        )
        for seed in range(count)
    ]


@pytest.fixture
def ablation():
    """Makes an ablation of cells, by default of the arms A, B and those of the cells."""
    return _ablation


def _ablation(*cells, arms=None, **changes):
    arms = arms or sorted({"A", "B", *(each.arm for each in cells)})
    shared = {"data": "digits", "preset": "tiny", "image_size": 32, "patch_size": 8, "codebook_size": 256}
    settings = {"torch": "2.11"}
    titles = arms if isinstance(arms, dict) else {arm: TITLES[arm] for arm in arms}
    return Ablation(**{**shared, "arms": titles, "cells": cells, "settings": settings, **changes})


@pytest.fixture
def sized():
    """Makes cells with images whose bits and PSNR rise with the codebook; B takes 10 bits fewer at every PSNR."""
    return _sized


def _sized(arm="A", codebook_size=256, seed=0, **changes):
    step = math.log2(codebook_size / 256)
    psnr, bits = 22.0 + step + 0.05 * seed, 90.0 + 10 * step + seed - 10 * (arm == "B")
    psnrs, codes = np.random.default_rng([seed, codebook_size, ord(arm[0])]).normal(size=(2, 20))
    numbers = {"psnr": psnr, "bits": bits, "grid_bits": bits, "train_bits": bits, "tokenizer_seconds": 1200.0}
    numbers |= {"codebook_perplexity": codebook_size / 2}
    numbers |= {
        "image_psnr": tuple((psnr + psnrs - psnrs.mean()).tolist()),
        "image_bits": tuple((bits + codes - codes.mean()).tolist()),
    }
    return _cell(arm, codebook_size, seed, **{**numbers, **changes})


@pytest.fixture
def whole():
    """Makes an ablation of A and B with three codebook sizes, and of F with one."""

    def make(seeds=3, **changes):
        cells = [_sized(arm, size, seed) for seed in range(seeds) for arm in "AB" for size in (128, 256, 512)]
        return _ablation(*cells, *(_sized("F", 256, seed, accuracy=0.75) for seed in range(seeds)), **changes)

    return make


@pytest.fixture
def texts():
    """The cells of a table's rows as text, by the row's name and the column's head."""
    return lambda table: {
        row.name: dict(zip(table.columns, (cell.text for cell in row.values), strict=True)) for row in table.rows
    }
