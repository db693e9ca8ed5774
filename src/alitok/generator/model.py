"""The generator: a LlamaGen-style transformer with QK-norm that maps codes and classes to next-code logits.

Logits (B, t + 1, V) at position i predict code i from the class and the codes before it.
Shapes: B sequences, K prefix, G grid size, T = K + G * G codes, t <= T, V codebook size, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from alitok.core.checkpoint import ModelCard, load_head, load_parts, save_model
from alitok.core.config import config, from_dict, require_at_least, to_dict
from alitok.core.errors import AlitokError
from alitok.core.hub import locate
from alitok.nn.attention import RMS_EPS
from alitok.nn.blocks import Blocks, llama_block
from alitok.nn.rotary import rotary_table


@config
class GeneratorConfig:
    """Shape of the sequence and size of the model. The defaults are the paper's B for 256 px.

    Attributes:
        grid: G.
        prefix: K.
        codebook_size: V.
        layers, width, heads: of the transformer; width / heads divisible by 4.
        dropout: on token embeddings, attention weights and residuals while training.
    """

    grid: int = 16
    prefix: int = 16
    codebook_size: int = 4096
    classes: int = 1000
    layers: int = 24
    width: int = 768
    heads: int = 16
    dropout: float = 0.1

    def __post_init__(self) -> None:
        require_at_least(self, 1, "grid", "codebook_size", "classes", "layers", "width", "heads")
        require_at_least(self, 0, "prefix")
        if not 0 <= self.dropout < 1:
            raise AlitokError(f"dropout must be within [0, 1), not {self.dropout}")
        if self.width % self.heads or (self.width // self.heads) % 4:
            raise AlitokError(f"width {self.width} / heads {self.heads} must be a whole multiple of 4")

    @property
    def sequence_length(self) -> int:
        """T, the number of codes per image."""
        return self.prefix + self.grid**2


class Generator(nn.Module):
    """Decoder-only transformer over one class token and T codes; `class_names` are in order, or empty.

    One embedding table holds V code rows, one unused row, the classes and the "no class" row.
    """

    rotary: torch.Tensor

    def __init__(self, config: GeneratorConfig, class_names: Sequence[str] = ()) -> None:
        super().__init__()
        self.config = config
        if class_names and len(class_names) != config.classes:
            raise AlitokError(f"There are {len(class_names)} class names for {config.classes} classes.")
        self.class_names = tuple(class_names)
        rows = config.codebook_size + 1 + config.classes + 1
        self.embeddings = nn.Embedding(rows, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = Blocks(llama_block(config.width, config.heads, config.dropout) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=RMS_EPS)
        self.output = nn.Linear(config.width, config.codebook_size)
        table = rotary_table(config.prefix, config.grid, config.width // config.heads)
        self.register_buffer("rotary", table, persistent=False)
        self._init_weights()

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.output.weight)

    @property
    def null_class(self) -> int:
        """The class number of "no class"."""
        return self.config.classes

    def class_tokens(self, classes: torch.Tensor) -> torch.Tensor:
        """Classes (B,) in [0, classes], the last for "no class" -> rows of the embedding table (B,)."""
        return self.config.codebook_size + 1 + classes

    def forward(
        self, codes: torch.Tensor, classes: torch.Tensor, value_weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Codes (B, t), t <= T, and classes (B,) -> logits (B, t + 1, V).

        With all T codes the last row of logits follows the whole image and predicts nothing. `value_weights`
        (B, t + 1, t + 1) scale the attended values for each position (SoftCFG).
        """
        tokens = torch.cat([self.class_tokens(classes)[:, None], codes], dim=1)
        x = self.dropout(self.embeddings(tokens))
        x = self.blocks(x, rotary=self.rotary[: tokens.shape[1]], causal=True, value_weights=value_weights)
        return self.output(self.norm(x))

    def save_pretrained(self, directory: str | Path, card: ModelCard | None = None) -> None:
        """Write `config.json` with the class names, `generator.safetensors`, and a card."""
        directory = Path(directory)
        save_model(
            directory,
            kind="generator",
            config=to_dict(self.config),
            parts={"generator": self},
            class_names=self.class_names,
            card=replace(card or ModelCard(directory.name), loader="Generator"),
        )

    @classmethod
    def from_pretrained(cls, path_or_name: str | Path, *, offline: bool = False) -> Generator:
        """Load from a directory or `owner/name` on the hub (`offline`: its cache only), on the CPU, in evaluation mode.

        Raises:
            AlitokError: a file is missing, damaged, or not a generator's.
        """
        directory = locate(path_or_name, offline=offline, part="generator")
        head = load_head(directory / "config.json", "generator", "config", "class_names")
        config = from_dict(GeneratorConfig, head["config"], str(directory / "config.json"))
        generator = cls(config, head["class_names"])
        load_parts(directory, {"generator": generator})
        return generator.eval()
