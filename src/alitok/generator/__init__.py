"""Floor 2: the plain decoder-only model over codes, and how to draw from it. Never sees a picture."""

from alitok.generator.engine import Engine
from alitok.generator.model import Generator, GeneratorConfig
from alitok.generator.sampling import SampleRequest, SamplingConfig

__all__ = ["Engine", "Generator", "GeneratorConfig", "SampleRequest", "SamplingConfig"]
