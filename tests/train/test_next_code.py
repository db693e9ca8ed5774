import math

import pytest
import torch

from alitok.generator import Generator, GeneratorConfig
from alitok.train.next_code import predict_codes


def test_equals_single_images_code_by_code_whatever_the_batch():
    generator = Generator(GeneratorConfig(grid=2, prefix=1, codebook_size=6, classes=3, layers=1, width=8, heads=2))
    for parameter in generator.eval().parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    codes, classes = torch.randint(0, 6, (7, 5)), torch.arange(7) % 3
    expected, hits = torch.zeros(7, 5), torch.zeros(7, 5, dtype=torch.bool)
    for n in range(7):
        for t in range(5):
            logits = generator(codes[None, n, :t], classes[n, None])[0, -1].detach()
            expected[n, t] = -logits.log_softmax(-1)[codes[n, t]]
            hits[n, t] = logits.argmax() == codes[n, t]
    for batch_size in (1, 3, 100):
        found = predict_codes(generator, codes, classes, batch_size)
        assert (found.nats.dtype, found.correct.dtype) == (torch.float64, torch.bool)
        assert torch.allclose(found.nats.float(), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(found.correct, hits)
        assert found.bits_per_image()[2].item() == pytest.approx(expected[2].sum().item() / math.log(2), rel=1e-4)
    other = predict_codes(generator, codes, (classes + 1) % 3, 100)
    assert not torch.allclose(other.nats, found.nats)
