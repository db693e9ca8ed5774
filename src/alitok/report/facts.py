"""What numbers depend on, as text for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def protocol_rows(protocol: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, str]:
    """What numbers depend on as text for people; the facts of the reference stand last, under its name."""
    facts = {**protocol, **{f"reference: {name}": value for name, value in reference.items()}}
    return {name: _text(value) for name, value in facts.items()}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value[:10])) + (f" ... ({len(value)})" if len(value) > 10 else "") or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
