"""An image tokenizer whose codes are easy to predict left to right, and an autoregressive generator over them.

The method is AliTok (ICLR 2026): a causal decoder shapes the codes, and a stage-2 decoder restores fidelity.
Names are imported on first use, so `import alitok` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alitok.core.errors import AlitokError
    from alitok.generator import Generator, GeneratorConfig
    from alitok.sampling import SampleRequest, SamplingConfig
    from alitok.sampling.engine import Engine
    from alitok.sampling.pipeline import Pipeline
    from alitok.tokenizer import Tokenizer, TokenizerConfig

__version__ = "0.1.0"

_HOMES = {
    "AlitokError": "alitok.core.errors",
    "Engine": "alitok.sampling.engine",
    "Generator": "alitok.generator",
    "GeneratorConfig": "alitok.generator",
    "Pipeline": "alitok.sampling.pipeline",
    "SampleRequest": "alitok.sampling",
    "SamplingConfig": "alitok.sampling",
    "Tokenizer": "alitok.tokenizer",
    "TokenizerConfig": "alitok.tokenizer",
}

__all__ = [
    "AlitokError",
    "Engine",
    "Generator",
    "GeneratorConfig",
    "Pipeline",
    "SampleRequest",
    "SamplingConfig",
    "Tokenizer",
    "TokenizerConfig",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'alitok' has no attribute '{name}'")
