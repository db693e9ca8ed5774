"""Released weights to ours and back, tensor for tensor.

Enters: state dicts with the names of the released code. Leaves: our models in evaluation mode, or the released names
again, bit for bit. Sizes are read off the shapes; head counts cannot be, so they are arguments.

A released tokenizer file holds one decoder: `AliTok.pth` that of stage 2, a stage-1 training file that of stage 1,
which is told by its second pixel head.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from alitok.core.checkpoint import Tensors, load_strictly
from alitok.core.errors import AlitokError
from alitok.generator import Generator, GeneratorConfig
from alitok.losses.discriminator import Discriminator, DiscriminatorConfig
from alitok.tokenizer import DecoderConfig, EncoderConfig, Tokenizer, TokenizerConfig
from alitok.tokenizer.model import Stage

# Ours -> released, tried in order until one matches the whole name; `*` stands for what is kept.
_ENCODER = {
    "encoder.latent_tokens": "latent_tokens",
    "encoder.latent_positions": "encoder.latent_token_positional_embedding",
    "encoder.patch_positions": "encoder.positional_embedding",
    "encoder.patch_embedding.*": "encoder.patch_embed.*",
    "encoder.to_features.*": "encoder.conv_out.*",
    "quantizer.codebook": "quantize.embedding.weight",
    "quantizer.usage": "quantize.embed_prob",
}
_DECODER = {
    "STAGE.extra_tokens": "decoder.class_embedding",
    "STAGE.positions": "decoder.latent_token_positional_embedding",
    "STAGE.from_vectors.*": "decoder.decoder_embed.*",
    "STAGE.head.to_pixels.*": "decoder.ffn.0.*",
    "STAGE.head.mix.*": "decoder.conv_out.*",
    "STAGE.prefix_head.to_pixels.*": "decoder.ffn_aux.0.*",
    "STAGE.prefix_head.mix.*": "decoder.conv_out_aux.*",
}
_VIT = {
    "norm_in.*": "ln_pre.*",
    "norm_out.*": "ln_post.*",
    "blocks.*.attention_norm.*": "transformer.*.ln_1.*",
    "blocks.*.attention.qkv.*": "transformer.*.attn.in_proj.*",
    "blocks.*.attention.out.*": "transformer.*.attn.out_proj.*",
    "blocks.*.mlp_norm.*": "transformer.*.ln_2.*",
    "blocks.*.mlp.up.*": "transformer.*.mlp.c_fc.*",
    "blocks.*.mlp.down.*": "transformer.*.mlp.c_proj.*",
}
_GENERATOR = {
    "blocks.*.attention_norm.*": "blocks.*.norm1.*",
    "blocks.*.attention.qkv.*": "blocks.*.attn.qkv.*",
    "blocks.*.attention.out.*": "blocks.*.attn.proj.*",
    "blocks.*.attention.query_norm.*": "blocks.*.attn.q_norm.*",
    "blocks.*.attention.key_norm.*": "blocks.*.attn.k_norm.*",
    "blocks.*.mlp_norm.*": "blocks.*.norm2.*",
    "blocks.*.mlp.gate.*": "blocks.*.mlp.w1.*",
    "blocks.*.mlp.up.*": "blocks.*.mlp.w3.*",
    "blocks.*.mlp.down.*": "blocks.*.mlp.w2.*",
    "embeddings.*": "embeddings.*",
    "norm.*": "norm.*",
    "output.*": "output.*",
}
_DISCRIMINATOR = {
    "stem.*": "block_in.0.*",
    "stages.*": "blocks.*",
    "mix.*": "to_logits.0.*",
    "logit.*": "to_logits.2.*",
}
# Linear layers of ours that are 1x1 convolutions in the released files: (out, in) there is (out, in, 1, 1).
_POINTWISE = re.compile(r".*\.(to_features|to_pixels)\.weight")

RELEASED_PREFIX, RELEASED_GRID = 17, 16


def _tokenizer_names(stage: Stage) -> dict[str, str]:
    names = dict(_ENCODER)
    names |= {ours.replace("STAGE", stage): theirs for ours, theirs in _DECODER.items()}
    for ours_root, theirs_root in (("encoder", "encoder"), (stage, "decoder")):
        names |= {f"{ours_root}.{ours}": f"{theirs_root}.{theirs}" for ours, theirs in _VIT.items()}
    return names


def _released_name(name: str, table: Mapping[str, str]) -> str:
    for ours, theirs in table.items():
        match = re.fullmatch(re.escape(ours).replace(r"\*", "(.+?)"), name)
        if match:
            for kept in match.groups():
                theirs = theirs.replace("*", kept, 1)
            return theirs
    raise AssertionError(f"no released name for {name}")


def _to_ours(module: nn.Module, released: Tensors, table: Mapping[str, str], source: str) -> None:
    """Load released tensors into `module`; every missing, surplus or misshapen one is named in one error."""
    names = {_released_name(name, table): name for name in module.state_dict()}
    ours = {}
    for name, tensor in released.items():
        mine = names.get(name, f"{name} (released name)")
        ours[mine] = tensor.flatten(1) if _POINTWISE.fullmatch(mine) and tensor.shape[2:] == (1, 1) else tensor
    broken = [name for name, tensor in ours.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise AlitokError(f"{source} holds values that are not finite numbers, in {', '.join(broken)}.")
    load_strictly(module, ours, source)


def _rename(tensors: Mapping[str, torch.Tensor], table: Mapping[str, str]) -> Tensors:
    """Our tensors under their released names and in their released shapes."""
    return {
        _released_name(name, table): tensor[:, :, None, None] if _POINTWISE.fullmatch(name) else tensor
        for name, tensor in tensors.items()
    }


def _unwrapped(state: Mapping[str, Any]) -> Tensors:
    """The tensors of a state dict, out of the `model_state` wrapper of training files if it has one."""
    tensors = state.get("model_state", state)
    if not isinstance(tensors, Mapping) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise AlitokError("This is no released weights file: it holds other things than named tensors.")
    return dict(tensors)


class _Shapes:
    """Shapes of a state dict by name; a missing name is a user's error, not a KeyError."""

    def __init__(self, tensors: Tensors, kind: str) -> None:
        self._tensors, self._kind = tensors, kind

    def __getitem__(self, name: str) -> torch.Size:
        if name not in self._tensors:
            raise AlitokError(f"This is no released {self._kind}: it has no tensor '{name}'.")
        return self._tensors[name].shape

    def layers(self, pattern: str) -> int:
        return len({match[1] for name in self._tensors if (match := re.match(pattern, name))})


def tokenizer_from_released(
    state_dict: Mapping[str, Any], *, encoder_heads: int = 12, decoder_heads: int = 16
) -> Tokenizer:
    """Build our tokenizer from a released one.

    Args:
        state_dict: of `AliTok.pth` or of a stage-1 training file, with or without its `model_state` wrapper.
        encoder_heads: attention heads of the encoder, which shapes do not tell.
        decoder_heads: attention heads of the decoder, likewise.

    Returns:
        A tokenizer on the CPU, in evaluation mode, with the one decoder that the file holds, under its stage's name.

    Raises:
        AlitokError: tensors are missing, surplus, misshapen or not finite; all are named.
    """
    released = _unwrapped(state_dict)
    shapes = _Shapes(released, "tokenizer")
    cells = shapes["encoder.positional_embedding"][0]
    codes = shapes["latent_tokens"][0]
    extra, decoder_width = shapes["decoder.class_embedding"]
    stage1 = "decoder.ffn_aux.0.weight" in released
    decoder = DecoderConfig(
        width=decoder_width,
        layers=shapes.layers(r"decoder\.transformer\.(\d+)\."),
        heads=decoder_heads,
        causal=stage1,
        extra_tokens=extra,
        reads_prefix=shapes["decoder.latent_token_positional_embedding"][0] == extra + codes,
        prefix_head=stage1,
    )
    patch_size = shapes["encoder.patch_embed.weight"][-1]
    codebook_size, code_width = shapes["quantize.embedding.weight"]
    config = TokenizerConfig(
        image_size=math.isqrt(cells) * patch_size,
        patch_size=patch_size,
        prefix=codes - cells,
        codebook_size=codebook_size,
        code_width=code_width,
        encoder=EncoderConfig(
            width=shapes["latent_tokens"][1],
            layers=shapes.layers(r"encoder\.transformer\.(\d+)\."),
            heads=encoder_heads,
        ),
        stage1=decoder if stage1 else None,
        stage2=None if stage1 else decoder,
    )
    tokenizer = Tokenizer(config)
    # Stage-2 files leave the running shares out; every code counts as used, so that none would be replaced.
    released.setdefault("quantize.embed_prob", torch.full((codebook_size,), 1 / codebook_size))
    _to_ours(tokenizer, released, _tokenizer_names("stage1" if stage1 else "stage2"), "The released tokenizer")
    return tokenizer.eval()


def tokenizer_to_released(tokenizer: Tokenizer, stage: Stage) -> Tensors:
    """The tensors of encoder, codebook and one decoder under their released names."""
    tokenizer.decoder(stage)  # refuses a decoder that is not there
    names, other = _tokenizer_names(stage), "stage1." if stage == "stage2" else "stage2."
    kept = {name: tensor for name, tensor in tokenizer.state_dict().items() if not name.startswith(other)}
    if stage == "stage2":
        del kept["quantizer.usage"]
    return _rename(kept, names)


def generator_from_released(
    state_dict: Mapping[str, Any],
    *,
    heads: int = 16,
    prefix: int = RELEASED_PREFIX,
    grid: int = RELEASED_GRID,
    class_names: Iterable[str] = (),
) -> Generator:
    """Build our generator from a released one.

    Args:
        state_dict: of `alitok_b.bin`, `alitok_l.bin` or `alitok_xl.bin`.
        heads: attention heads, which shapes do not tell.
        prefix: number of prefix codes of its tokenizer; the generator's file does not hold it.
        grid: grid cells a side, likewise.
        class_names: what the classes are called.

    Returns:
        A generator on the CPU, in evaluation mode.

    Raises:
        AlitokError: tensors are missing, surplus, misshapen or not finite; all are named.
    """
    released = _unwrapped(state_dict)
    shapes = _Shapes(released, "generator")
    codebook_size, width = shapes["output.weight"]
    config = GeneratorConfig(
        grid=grid,
        prefix=prefix,
        codebook_size=codebook_size,
        classes=shapes["embeddings.weight"][0] - codebook_size - 2,
        layers=shapes.layers(r"blocks\.(\d+)\."),
        width=width,
        heads=heads,
    )
    generator = Generator(config, tuple(class_names))
    _to_ours(generator, released, _GENERATOR, "The released generator")
    return generator.eval()


def generator_to_released(generator: Generator) -> Tensors:
    """The generator's tensors under their released names."""
    return _rename(generator.state_dict(), _GENERATOR)


def discriminator_from_released(state_dict: Mapping[str, Any]) -> Discriminator:
    """Build our discriminator from that of a released training file.

    Raises:
        AlitokError: tensors are missing, surplus, misshapen or not finite; all are named.
    """
    released = _unwrapped(state_dict)
    shapes = _Shapes(released, "discriminator")
    width, stages = shapes["block_in.0.weight"][0], shapes.layers(r"blocks\.(\d+)\.")
    discriminator = Discriminator(DiscriminatorConfig(width=width, stages=stages))
    _to_ours(discriminator, released, _DISCRIMINATOR, "The released discriminator")
    return discriminator.eval()


def discriminator_to_released(discriminator: Discriminator) -> Tensors:
    """The discriminator's tensors under their released names."""
    return _rename(discriminator.state_dict(), _DISCRIMINATOR)
