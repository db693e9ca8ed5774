"""The model card beside saved weights: Markdown with metadata that the hub reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from alitok.core.files import finite


@dataclass(frozen=True)
class ModelCard:
    """Contents of a card.

    Attributes:
        title: a heading.
        description: a sentence or two.
        data: what it was trained on.
        steps: optimizer steps by stage.
        metrics: measured numbers by name.
        config: the configuration, by model.
        licence: of the weights.
        loader: the public class that reads the directory.
    """

    title: str
    description: str = ""
    data: str = "not stated"
    steps: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    licence: str = "unknown"
    loader: str = "Pipeline"

    def to_markdown(self) -> str:
        """The text; values of the metadata are JSON, which is also valid YAML."""
        facts = {"data": self.data, "steps": dict(self.steps), "metrics": dict(self.metrics), "config": self.config}
        metadata = ["---", "library_name: alitok", "tags: [alitok, class-conditional-image-generation]"]
        metadata += [f"license: {json.dumps(self.licence)}", f"alitok: {json.dumps(finite(facts))}", "---"]
        lines = [*metadata, "", f"# {_line(self.title)}", ""]
        if self.description:
            lines += [self.description, ""]
        lines += ["```python", "import alitok", "", f'model = alitok.{self.loader}.from_pretrained("THIS DIRECTORY")']
        lines += ["```", "", f"- Trained on: {_line(self.data)}", f"- Licence of the weights: {_line(self.licence)}"]
        lines += [f"- {name}: {count:,} steps" for name, count in self.steps.items()]
        if self.metrics:
            lines += ["", "| number | value |", "|---|---|"]
            lines += [f"| {name} | {value:.4g} |" for name, value in self.metrics.items()]
        if self.config:
            lines += ["", "## Configuration", "", "```json", json.dumps(self.config, indent=2), "```"]
        return "\n".join(lines) + "\n"


def _line(text: str) -> str:
    return " ".join(text.split())
