"""The plain decoder-only transformer over codes. It never sees an image."""

from alitok.generator.model import Generator, GeneratorConfig

__all__ = ["Generator", "GeneratorConfig"]
