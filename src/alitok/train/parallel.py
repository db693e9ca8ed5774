"""Several processes as one: gradients averaged (DDP), or the blocks' weights spread over the processes (FSDP2).

Enters: a module on its device and a `World`. Leaves: a callable of the same signature whose gradients are those of
the whole batch. With one process everything here is the module itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from alitok.core.distributed import World
from alitok.nn.blocks import Block, Blocks
from alitok.train.optim import gradients, trainable

Parallel = Literal["ddp", "fsdp"]


def shard(module: nn.Module, world: World) -> None:
    """Spread the weights of the transformer blocks over the processes, in place.

    All else (embeddings, positions, codebook, heads: a few per cent of the weights) stays whole on each process,
    because online clustering and the losses need it so; `average_whole` takes care of its gradients. Weights are
    gathered in float32, as validation images are looked at in it; autocast rounds them where a step computes in bf16.

    Args:
        module: on its device.
        world: of more than one process.
    """
    assert world.size > 1
    for block in [part for part in module.modules() if isinstance(part, Block)]:
        if any(parameter.requires_grad for parameter in block.parameters()):
            fully_shard(block)
    whole = {parameter for parameter in module.parameters() if not isinstance(parameter, DTensor)}
    fully_shard(module, ignored_params=whole)  # the root lets the blocks be gathered ahead of their turn


def replicate(module: nn.Module, world: World) -> nn.Module:
    """The module behind DDP, or as it is: one process, nothing to train, or sharded already."""
    if world.size == 1 or isinstance(module, FSDPModule) or not trainable(module):
        return module
    with warnings.catch_warnings():  # newer releases rename the option, older ones know only this name
        warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
        return DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)


@contextmanager
def exchanged(models: list[nn.Module], last: bool) -> Iterator[None]:
    """DDP exchanges gradients in the backward passes of this context only if it is that of the `last` microbatch."""
    held_back = [model for model in models if isinstance(model, DistributedDataParallel) and not last]
    for model in held_back:
        model.require_backward_grad_sync = False
    try:
        yield
    finally:
        for model in held_back:
            model.require_backward_grad_sync = True


def average_whole(module: nn.Module, world: World) -> None:
    """Average the gradients that FSDP leaves alone: those of parameters kept whole in a sharded module."""
    if isinstance(module, FSDPModule):
        whole = [gradient for gradient in gradients(trainable(module)) if not isinstance(gradient, DTensor)]
        if whole:
            flat = world.mean(torch.cat([gradient.flatten() for gradient in whole]))
            for gradient, mean in zip(whole, flat.split([gradient.numel() for gradient in whole]), strict=True):
                gradient.copy_(mean.view_as(gradient))


def compile_blocks(module: nn.Module) -> None:
    """Compile each transformer block, in place; equal blocks share one compilation.

    Each length of sequence has its own: with a length that may vary, attention would not know whether it is causal, and
    the block would fall into pieces.
    """
    for part in module.modules():
        if isinstance(part, Block):
            part.compile(dynamic=False)


def checkpoint_activations(module: nn.Module, wanted: bool = True) -> None:
    """Let all stacks of blocks keep no activations for the backward pass, or keep them again."""
    for part in module.modules():
        if isinstance(part, Blocks):
            part.activation_checkpointing = wanted


def whole_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict with every tensor whole, on the CPU of the first process; elsewhere it is empty."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(module, options=options)
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
