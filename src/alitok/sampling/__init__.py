"""From requests to images: settings, guidance, noise, oracle, engine and its kernels, pixels, `Pipeline`."""

from alitok.sampling.engine import Engine
from alitok.sampling.settings import SampleRequest, SamplingConfig

__all__ = ["Engine", "SampleRequest", "SamplingConfig"]
