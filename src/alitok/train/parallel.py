"""Data parallelism: gradients averaged (DDP), or the blocks' weights sharded (FSDP2). With one rank, all are no-ops."""

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
    """Shard the weights of the transformer blocks over ranks (FSDP2), in place; `world` has more than one rank.

    All else (embeddings, positions, codebook, heads: a few percent of the weights) stays whole on each rank, as online
    clustering and the losses need it; `average_whole` averages its gradients. Weights are gathered in float32, which
    evaluation needs; autocast rounds them where a step computes in bf16.
    """
    assert world.size > 1
    for block in [part for part in module.modules() if isinstance(part, Block)]:
        if any(parameter.requires_grad for parameter in block.parameters()):
            fully_shard(block)
    whole = {parameter for parameter in module.parameters() if not isinstance(parameter, DTensor)}
    fully_shard(module, ignored_params=whole)  # the root prefetches the blocks


def replicate(module: nn.Module, world: World) -> nn.Module:
    """The module wrapped in DDP; or the module itself with one rank, nothing to train, or if sharded."""
    if world.size == 1 or isinstance(module, FSDPModule) or not trainable(module):
        return module
    with warnings.catch_warnings():  # newer releases rename the option, older ones know only this name
        warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
        return DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)


@contextmanager
def gradient_sync(models: list[nn.Module], last: bool) -> Iterator[None]:
    """Let DDP all-reduce gradients in this context only for the `last` microbatch."""
    held_back = [model for model in models if isinstance(model, DistributedDataParallel) and not last]
    for model in held_back:
        model.require_backward_grad_sync = False
    try:
        yield
    finally:
        for model in held_back:
            model.require_backward_grad_sync = True


def average_whole(module: nn.Module, world: World) -> None:
    """Average the gradients of the unsharded parameters of a sharded module, which FSDP ignores."""
    if isinstance(module, FSDPModule):
        whole = [gradient for gradient in gradients(trainable(module)) if not isinstance(gradient, DTensor)]
        if whole:
            flat = world.mean(torch.cat([gradient.flatten() for gradient in whole]))
            for gradient, mean in zip(whole, flat.split([gradient.numel() for gradient in whole]), strict=True):
                gradient.copy_(mean.view_as(gradient))


def compile_blocks(module: nn.Module) -> None:
    """Compile each transformer block in place; equal blocks share one compilation.

    Not dynamic: with a symbolic length, attention cannot tell whether it is causal, and the graph breaks.
    """
    for part in module.modules():
        if isinstance(part, Block):
            part.compile(dynamic=False)


def checkpoint_activations(module: nn.Module, enabled: bool = True) -> None:
    """Turn activation checkpointing on or off in all stacks of blocks."""
    for part in module.modules():
        if isinstance(part, Blocks):
            part.activation_checkpointing = enabled


def whole_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """The unsharded state dict on the CPU of rank 0; empty elsewhere."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(module, options=options)
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
