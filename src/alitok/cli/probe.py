"""`alitok probe`: which patch of an image changes which code, of any tokenizer."""

from __future__ import annotations

from alitok.apps.probe.options import ProbeOptions
from alitok.cli import typed_command


def probe(options: ProbeOptions) -> None:
    """Map how codes depend on the image and on one another: what a left-to-right generator cannot know yet.

    Patches of validation images are replaced one at a time, and changed codes are counted; codes are replaced, and
    changed patches are measured; codes are predicted from those before them. OUT gets probe.json, maps.npz,
    influence.png, reach.png and report.html. See docs/probe.md.
    """
    from alitok.apps.probe.probe import run_probe

    run_probe(options, command=typed_command())
