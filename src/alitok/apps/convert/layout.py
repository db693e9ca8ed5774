"""Maps the released weights to ours and back, tensor for tensor.

Sizes are read off the shapes; head counts cannot be, so they are arguments. A released tokenizer file holds one
decoder: that of stage 2 in `AliTok.pth`, that of stage 1 (recognized by its second pixel head) in a training file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from alitok.core.checkpoint import Tensors, require_same
from alitok.core.errors import AlitokError
from alitok.generator import Generator, GeneratorConfig
from alitok.losses.adversarial import Discriminator, DiscriminatorConfig
from alitok.tokenizer import DecoderConfig, EncoderConfig, Tokenizer, TokenizerConfig
from alitok.tokenizer.model import Stage

# Ours -> released; the first that matches the whole name is used, and `*` is copied.
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
# Linear layers here that are 1x1 convolutions in the released files, where (out, in) is (out, in, 1, 1).
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
            for part in match.groups():
                theirs = theirs.replace("*", part, 1)
            return theirs
    raise AssertionError(f"no released name for {name}")


def _to_ours(module: nn.Module, released: Tensors, table: Mapping[str, str], source: str) -> None:
    """Load released tensors into `module` as float32; all faults are reported at once, by their released names."""
    state = module.state_dict()
    require_same(_rename(state, table), released, source)
    names = {name: _released_name(name, table) for name in state}
    module.load_state_dict({name: released[theirs].view_as(state[name]) for name, theirs in names.items()})


def _rename(tensors: Mapping[str, torch.Tensor], table: Mapping[str, str]) -> Tensors:
    """Our tensors under their released names and shapes."""
    return {
        _released_name(name, table): tensor[:, :, None, None] if _POINTWISE.fullmatch(name) else tensor
        for name, tensor in tensors.items()
    }


def _unwrapped(state: Mapping[str, Any]) -> Tensors:
    """The tensors of a state dict, also from the `model_state` wrapper of training files."""
    tensors = state.get("model_state", state) if isinstance(state, Mapping) else None
    if not isinstance(tensors, Mapping) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in tensors.items()
    ):
        raise AlitokError("This is not a released weights file: it holds other things than named tensors.")
    return dict(tensors)


def _shapes(tensors: Tensors, kind: str, dimensions: Mapping[str, int]) -> dict[str, torch.Size]:
    """The shapes that determine a model's sizes; `dimensions` is the expected number of dimensions by tensor name."""
    faults = [f"missing {name}" for name in dimensions if name not in tensors]
    faults += [
        f"{name} is {tuple(tensors[name].shape)}, not of {count} dimensions"
        for name, count in dimensions.items()
        if name in tensors and tensors[name].ndim != count
    ]
    if faults:
        raise AlitokError(f"This is not a released {kind}: {'; '.join(faults)}.")
    return {name: tensors[name].shape for name in dimensions}


def _layers(tensors: Tensors, pattern: str) -> int:
    """Number of layers, by the highest number in the names; gaps are reported later as missing."""
    return max((int(match[1]) + 1 for name in tensors if (match := re.match(pattern, name))), default=0)


def tokenizer_from_released(
    state_dict: Mapping[str, Any], *, encoder_heads: int = 12, decoder_heads: int = 16
) -> Tokenizer:
    """Build our tokenizer, on the CPU in evaluation mode, from `AliTok.pth` or a stage-1 training file.

    Raises:
        AlitokError: tensors are missing, unexpected, misshapen or not finite; all are listed.
    """
    released = _unwrapped(state_dict)
    shapes = _shapes(
        released,
        "tokenizer",
        {
            "encoder.positional_embedding": 2,
            "latent_tokens": 2,
            "encoder.patch_embed.weight": 4,
            "quantize.embedding.weight": 2,
            "decoder.class_embedding": 2,
            "decoder.latent_token_positional_embedding": 2,
        },
    )
    cells, (codes, width) = shapes["encoder.positional_embedding"][0], shapes["latent_tokens"]
    extra, decoder_width = shapes["decoder.class_embedding"]
    patch_size = shapes["encoder.patch_embed.weight"][-1]
    codebook_size, code_width = shapes["quantize.embedding.weight"]
    stage1 = any("_aux." in name for name in released)
    for name, heads, of in (("encoder_heads", encoder_heads, width), ("decoder_heads", decoder_heads, decoder_width)):
        if heads < 1 or of % heads:
            raise AlitokError(f"{name}={heads} does not divide the width {of} of this file.")
    decoder = DecoderConfig(
        width=decoder_width,
        layers=_layers(released, r"decoder\.transformer\.(\d+)\."),
        heads=decoder_heads,
        causal=stage1,
        extra_tokens=extra,
        reads_prefix=stage1 or shapes["decoder.latent_token_positional_embedding"][0] == extra + codes,
        prefix_head=stage1,
    )
    config = TokenizerConfig(
        image_size=math.isqrt(cells) * patch_size,
        patch_size=patch_size,
        prefix=codes - cells,
        codebook_size=codebook_size,
        code_width=code_width,
        encoder=EncoderConfig(
            width=width, layers=_layers(released, r"encoder\.transformer\.(\d+)\."), heads=encoder_heads
        ),
        stage1=decoder if stage1 else None,
        stage2=None if stage1 else decoder,
    )
    tokenizer = Tokenizer(config)
    # Stage-2 files lack the running usage; count every code as used, so that clustering would replace none.
    released.setdefault("quantize.embed_prob", torch.full((codebook_size,), 1 / codebook_size))
    _to_ours(tokenizer, released, _tokenizer_names("stage1" if stage1 else "stage2"), "The released tokenizer")
    return tokenizer.eval()


def tokenizer_to_released(tokenizer: Tokenizer, stage: Stage) -> Tensors:
    """Encoder, codebook and a decoder under released names; `AlitokError` if the layout cannot represent them."""
    decoder, encoder = tokenizer.decoder(stage).config, tokenizer.config.encoder
    if not (isinstance(decoder, DecoderConfig) and isinstance(encoder, EncoderConfig)):
        raise AlitokError(
            f"The released layout has transformers only; encoder or {stage} of this tokenizer is convolutional."
        )
    is_stage1 = decoder.causal and decoder.prefix_head and tokenizer.config.prefix_length > 0
    plain = not decoder.causal and not decoder.prefix_head
    if encoder.causal or not (is_stage1 if stage == "stage1" else plain):
        raise AlitokError(
            "The released layout has a bidirectional encoder, a causal stage-1 decoder with a prefix head, and a "
            f"bidirectional stage-2 decoder; the {stage} of this tokenizer is something else."
        )
    names, other = _tokenizer_names(stage), "stage1." if stage == "stage2" else "stage2."
    tensors = {name: tensor for name, tensor in tokenizer.state_dict().items() if not name.startswith(other)}
    if stage == "stage2":
        del tensors["quantizer.usage"]
    return _rename(tensors, names)


def generator_from_released(
    state_dict: Mapping[str, Any], *, heads: int = 16, prefix: int = RELEASED_PREFIX, grid: int = RELEASED_GRID
) -> Generator:
    """Build our generator, on the CPU in evaluation mode; the file does not hold its tokenizer's `prefix` and `grid`.

    Raises:
        AlitokError: tensors are missing, unexpected, misshapen or not finite; all are listed.
    """
    released = _unwrapped(state_dict)
    shapes = _shapes(
        released, "generator", {"output.weight": 2, "embeddings.weight": 2, "blocks.0.attn.q_norm.weight": 1}
    )
    codebook_size, width = shapes["output.weight"]
    head_size = shapes["blocks.0.attn.q_norm.weight"][0]
    if heads * head_size != width:
        raise AlitokError(
            f"heads={heads} does not fit width {width} with heads of size {head_size}; try heads="
            f"{width // max(head_size, 1)}."
        )
    config = GeneratorConfig(
        grid=grid,
        prefix=prefix,
        codebook_size=codebook_size,
        classes=shapes["embeddings.weight"][0] - codebook_size - 2,
        layers=_layers(released, r"blocks\.(\d+)\."),
        width=width,
        heads=heads,
    )
    generator = Generator(config)
    _to_ours(generator, released, _GENERATOR, "The released generator")
    return generator.eval()


def generator_to_released(generator: Generator) -> Tensors:
    """The generator's tensors under their released names."""
    return _rename(generator.state_dict(), _GENERATOR)


def discriminator_from_released(state_dict: Mapping[str, Any]) -> Discriminator:
    """Build our discriminator from that of a released training file; `AlitokError` if a tensor does not fit."""
    released = _unwrapped(state_dict)
    width = _shapes(released, "discriminator", {"block_in.0.weight": 4})["block_in.0.weight"][0]
    stages = _layers(released, r"blocks\.(\d+)\.")
    discriminator = Discriminator(DiscriminatorConfig(width=width, stages=stages))
    _to_ours(discriminator, released, _DISCRIMINATOR, "The released discriminator")
    return discriminator.eval()


def discriminator_to_released(discriminator: Discriminator) -> Tensors:
    """The discriminator's tensors under their released names."""
    return _rename(discriminator.state_dict(), _DISCRIMINATOR)
