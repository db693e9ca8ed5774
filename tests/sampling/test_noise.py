import math

import pytest
import torch

from alitok.sampling.noise import ImageNoise, philox

CPU = torch.device("cpu")


def words(*values):
    return tuple(torch.tensor([value]) for value in values)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known answers published with the algorithm, for 4 x 32 bits and 10 rounds
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_its_known_answers(counter, key, expected):
    assert tuple(int(word) for word in philox(words(*counter), words(*key))) == expected


def plain_philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [
            second >> 32 ^ c[1] ^ k[0],
            second & 0xFFFFFFFF,
            first >> 32 ^ c[3] ^ k[1],
            first & 0xFFFFFFFF,
        ]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def test_noise_is_a_function_of_seed_image_position_and_code():
    keys = [(7, 0), (7, 3), (-1, 2**40 + 5)]
    noise = ImageNoise(keys, CPU).gumbel(4, 3, 10)
    assert noise.shape == (3, 3, 10)
    for row, (seed, image) in enumerate(keys):
        seed %= 2**64
        for position in range(3):
            for code in range(10):
                counter = (code // 4, 4 + position, image & 0xFFFFFFFF, image >> 32)
                word = plain_philox(counter, (seed & 0xFFFFFFFF, seed >> 32))[code % 4]
                uniform = (word + 0.5) / 2**32
                expected = -math.log(-math.log1p(-uniform))
                assert noise[row, position, code].item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_noise_has_the_gumbel_distribution():
    noise = ImageNoise([(0, 0)], CPU).gumbel(0, 25, 4096).flatten().sort().values
    assert torch.isfinite(noise).all()
    expected = torch.exp(-torch.exp(-noise))
    assert (expected - torch.linspace(0, 1, len(noise))).abs().max() < 0.01
