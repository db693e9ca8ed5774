"""Stored code sequences: how a store is read and how it is written."""

from alitok.data.codes.shards import MAX_CODEBOOK
from alitok.data.codes.store import CodeStore

__all__ = ["MAX_CODEBOOK", "CodeStore"]
