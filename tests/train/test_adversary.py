import dataclasses

import pytest
import torch

from alitok.core.config import from_dict
from alitok.core.distributed import World
from alitok.core.errors import AlitokError
from alitok.losses.adversarial import DiscriminatorConfig
from alitok.losses.objective import LossWeights
from alitok.tokenizer import Tokenizer
from alitok.train.adversary import Adversary, AdversaryConfig
from alitok.train.task import LoopConfig, StepInfo
from alitok.train.tokenizer import TokenizerPhase, TokenizerTask, TokenizerTraining
from tiny import TOKENIZER

SMALL = DiscriminatorConfig(width=32, stages=1, regions=4)


def test_the_verdict_reaches_the_image_and_leaves_the_discriminator_alone():
    adversary = Adversary(AdversaryConfig(network=SMALL), torch.nn.Parameter(torch.ones(1)))
    image = torch.rand(2, 3, 16, 16, requires_grad=True)
    verdict = adversary.decoder_loss(image, torch.zeros(()), 0.5)
    assert verdict.minimise.item() == pytest.approx(-0.5 * adversary.discriminator(image).mean().item(), rel=1e-5)
    verdict.minimise.backward()
    assert image.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in adversary.discriminator.parameters())


def test_the_adaptive_weight_of_the_step_before_is_used():
    layer = torch.nn.Parameter(torch.rand(3))
    adversary = Adversary(AdversaryConfig(network=SMALL, weight="adaptive"), layer)

    def step():
        image = (layer[:, None, None] * torch.ones(1, 3, 16, 16)).requires_grad_()
        return adversary.decoder_loss(image, 2 * layer.sum(), 0.5)

    first = step()
    assert first.minimise.item() == 0  # nothing was measured yet
    adversary.update(World(torch.device("cpu")))
    measured = adversary.adaptive.weight.item()
    assert measured > 0
    second = step()
    assert second.minimise.item() == pytest.approx(0.5 * measured * second.logged["adversarial"].item(), rel=1e-5)


def test_the_lesson_reaches_the_discriminator_and_its_means_are_remembered():
    adversary = Adversary(AdversaryConfig(network=SMALL), torch.nn.Parameter(torch.ones(1)))
    real, fake = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        means = adversary.discriminator(real).mean().item(), adversary.discriminator(fake).mean().item()
    adversary.discriminator_loss(adversary.discriminator, real, fake, LossWeights(lecam=0.1)).minimise.backward()
    assert all(parameter.grad is not None for parameter in adversary.discriminator.parameters())
    adversary.update(World(torch.device("cpu")))
    assert adversary.lecam.real.item() == pytest.approx(0.001 * means[0], rel=1e-3)
    assert adversary.lecam.fake.item() == pytest.approx(0.001 * means[1], rel=1e-3)


@pytest.mark.parametrize("turns", ["both", "alternate"])
def test_both_sides_learn_each_step_or_in_turns(turns):
    tokenizer = Tokenizer(dataclasses.replace(TOKENIZER, stage2=None))
    training = TokenizerTraining(
        loop=LoopConfig(batch_size=2),
        phases=(TokenizerPhase(steps=9, discriminator=True, losses=LossWeights(adversarial=0.1)),),
        adversary=AdversaryConfig(network=SMALL, turns=turns),
    )
    images = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    task = TokenizerTask(tokenizer, "stage1", training, lambda start: iter(()), images.numpy())
    sides = []
    for step in range(4):
        for module in task.modules.values():
            module.zero_grad()
        task.begin()
        for terms in task.losses(task.modules, (images, torch.zeros(2)), StepInfo(0, step, step)):
            terms.minimise.backward()
        modules = task.modules["model"], task.modules["discriminator"]
        sides.append([any(p.grad is not None for p in module.parameters()) for module in modules])
    assert sides == ([[True, True]] * 4 if turns == "both" else [[True, False], [False, True]] * 2)


@pytest.mark.parametrize("setting", [{"ema_decay": 0.9}, {"rate_rule": "sqrt"}, {"reference_batch": 64}])
def test_settings_of_the_optimizer_that_would_change_nothing_are_rejected(setting):
    (name,) = setting
    with pytest.raises(AlitokError, match=rf"optimizer\.{name} has no effect here"):
        from_dict(AdversaryConfig, {"optimizer": setting}, "recipe")
    from_dict(AdversaryConfig, {"optimizer": {"clip": 0.5, "weight_decay": 0.1, "betas": [0.5, 0.9]}}, "recipe")
