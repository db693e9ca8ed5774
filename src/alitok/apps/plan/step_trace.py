"""Memory, operations and kernels of one training step: the real task takes it on fake tensors, without computing.

Memory is what PyTorch allocates, without workspaces inside kernels, fragmentation and the CUDA context.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from alitok.core.errors import AlitokError
from alitok.generator import Generator
from alitok.losses.perceptual import ConvNextLogits, FeatureNetwork, LocalFeatures, LpipsVgg, NetworkName
from alitok.nn.attention import Attention
from alitok.nn.blocks import Block
from alitok.recipes.presets import Recipe, StageName
from alitok.tokenizer import Tokenizer
from alitok.train.features import outputs
from alitok.train.generator import GeneratorTask
from alitok.train.optim import trainable
from alitok.train.parallel import checkpoint_activations
from alitok.train.task import Batch, StepInfo, Task
from alitok.train.tokenizer import TokenizerPhase, TokenizerTask, TokenizerTraining

_CPU, _META = torch.device("cpu"), torch.device("meta")


@dataclasses.dataclass(frozen=True)
class Weights:
    """Bytes of float32 weights.

    Attributes:
        blocks: of trained transformer blocks, which FSDP shards; `whole` of the model's other trained weights.
        frozen: of feature networks and, in stage 2, encoder and stage-1 decoder.
        saved: of model and discriminator in a checkpoint, buffers included, moments and EMA not.
    """

    blocks: int
    whole: int
    discriminator: int
    frozen: int
    saved: int

    @property
    def trained(self) -> int:
        """The model's trained weights."""
        return self.blocks + self.whole


@dataclasses.dataclass(frozen=True)
class StepTrace:
    """Forward and backward pass of one microbatch.

    Attributes:
        held_bytes: peak allocation beside weights, gradients, moments and EMA.
        kernels: launched operations; views do not count.
        flops: of matrix products and convolutions of all networks, with recomputation.
    """

    held_bytes: int
    kernels: int
    flops: int


class Rehearsal:
    """A stage's task on fake tensors, with feature networks and discriminator if `losses`.

    Raises AlitokError if a feature network needs a package that is not installed.
    """

    def __init__(self, recipe: Recipe, stage: StageName, classes: int, *, losses: bool = True) -> None:
        self.stage, self._image_size = stage, recipe.tokenizer.image_size
        self._codes = recipe.tokenizer.sequence_length
        self._dropout = recipe.generator_size.dropout if stage == "generator" else 0.0
        with _META:
            self._task, networks = _build(recipe, stage, classes, losses)
        self._model = self._task.modules["model"]
        self._networks = nn.ModuleDict({str(name): network for name, network in networks.items()})
        self.weights = self._weigh()
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        with self._mode:  # on the CPU, whose autocast and fused attention save the same tensors as a GPU's
            for module in (*self._task.modules.values(), self._networks):
                module.to_empty(device=_CPU)

    def _weigh(self) -> Weights:
        modules = self._task.modules
        trained = {id(parameter): parameter.nbytes for parameter in trainable(self._model)}
        sizes = [
            sum(trained.get(id(parameter), 0) for parameter in part.parameters())
            for part in self._model.modules()
            if isinstance(part, Block)
        ]
        self.largest_block, blocks = max(sizes, default=0), sum(sizes)
        self.blocks = sum(size > 0 for size in sizes)
        discriminator = sum(
            parameter.nbytes for name, part in modules.items() if name != "model" for parameter in trainable(part)
        )
        saved = sum(value.nbytes for part in modules.values() for value in part.state_dict().values())
        networks = sum(value.nbytes for value in self._networks.parameters())
        frozen = sum(parameter.nbytes for parameter in self._model.parameters()) - sum(trained.values())
        return Weights(blocks, sum(trained.values()) - blocks, discriminator, frozen + networks, saved)

    def step(
        self,
        images: int,
        *,
        phase: int = 0,
        half: bool = True,
        activation_checkpointing: bool = False,
        accumulating: bool = True,
        fused_attention: bool = True,
    ) -> StepTrace:
        """Trace one microbatch, with forward passes in bf16 if `half`.

        Args:
            accumulating: whether gradients exist before it, as with microbatches or several processes.
            fused_attention: whether attention with dropout saves no probabilities, as on a GPU but not on a CPU.
        """
        parameters = [parameter for module in self._task.modules.values() for parameter in trainable(module)]
        self._model.train()
        checkpoint_activations(self._model, activation_checkpointing)
        for part in self._model.modules():
            if isinstance(part, Attention):
                part.dropout = 0.0 if fused_attention else self._dropout  # with dropout the CPU does not fuse it
        with self._mode:
            for parameter in parameters:
                parameter.grad = torch.empty_like(parameter) if accumulating else None
            batch = self._batch(images)
            self._task.begin()
            with _Tracer() as seen:
                for terms in _passes(self._task, batch, StepInfo(phase, 0, 0), half):
                    terms.backward()
            gradients = 0 if accumulating else sum(p.grad.nbytes for p in parameters if p.grad is not None)
            self._task.begin()
        return StepTrace(max(0, seen.most - gradients), seen.kernels, seen.flops)

    def _batch(self, images: int) -> Batch:
        labels = torch.zeros(images, dtype=torch.int64)
        if self.stage == "generator":
            return torch.zeros(images, self._codes, dtype=torch.int64), labels
        return torch.zeros(images, 3, self._image_size, self._image_size, dtype=torch.uint8), labels


def _passes(task: Task, batch: Batch, step: StepInfo, half: bool) -> Iterator[torch.Tensor]:
    """The losses to backpropagate, one pass after the other, as in the training loop."""
    passes = task.losses(task.modules, batch, step)
    while True:
        with torch.autocast(_CPU.type, dtype=torch.bfloat16, enabled=half):
            terms = next(passes, None)
        if terms is None:
            return
        yield terms.minimise


def _build(
    recipe: Recipe, stage: StageName, classes: int, losses: bool
) -> tuple[TokenizerTask | GeneratorTask, dict[NetworkName, FeatureNetwork]]:
    if stage == "generator":
        generator = Generator(recipe.generator_size.config(recipe.tokenizer, classes))
        nothing = torch.zeros(1, recipe.tokenizer.sequence_length, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
        return GeneratorTask(generator, recipe.generator, _no_batches, nothing), {}
    training = recipe.training(stage)
    assert isinstance(training, TokenizerTraining)
    training = training if losses else dataclasses.replace(training, phases=tuple(map(_bare, training.phases)))
    config = dataclasses.replace(recipe.tokenizer, stage2=None) if stage == "stage1" else recipe.tokenizer
    networks = {name: _network(recipe, name, classes) for name in training.networks()}
    blank = np.zeros((1, 3, config.image_size, config.image_size), np.uint8)
    return TokenizerTask(Tokenizer(config), stage, training, _no_batches, blank, networks=networks), networks


def _bare(phase: TokenizerPhase) -> TokenizerPhase:
    losses = dataclasses.replace(phase.losses.with_perceptual("none"), adversarial=0.0)
    return dataclasses.replace(phase, losses=losses, discriminator=False)


def _no_batches(start: int) -> Iterator[Batch]:
    return iter(())


def _network(recipe: Recipe, name: NetworkName, classes: int) -> FeatureNetwork:
    if name == "local":
        return LocalFeatures(recipe.features.network, outputs(classes, recipe.features.turns)).freeze()
    try:
        return ConvNextLogits() if name == "convnext" else LpipsVgg()
    except ImportError:
        raise AlitokError(
            f"The perceptual network '{name}' is torchvision's: pip install 'alitok[perceptual]', or plan with "
            "--perceptual local or none."
        ) from None


class _Tracer(TorchDispatchMode):
    """Tracks storages and counts FLOPs; PyTorch's `FlopCounterMode` would keep recomputed activations alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = self.kernels = self.flops = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        given = {storage._cdata for storage in _storages((args, kwargs))}
        made = [storage for storage in _storages(result) if storage._cdata not in given]
        for storage in made:  # not views and in-place results
            key, size = storage._cdata, storage.nbytes()
            if key not in self._alive:
                self._alive[key] = size
                self.now += size
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._freed, key)
        schema = getattr(function, "_schema", None)
        self.kernels += bool(made) or bool(schema is not None and schema.is_mutable)
        counted = flop_registry.get(getattr(function, "overloadpacket", None))
        if counted is not None:
            self.flops += counted(*args, **(kwargs or {}), out_val=result)
        return result

    def _freed(self, key: int) -> None:
        self.now -= self._alive.pop(key, 0)


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
