"""Where a probe is written: a directory that holds nothing else, and no probe of something else."""

from __future__ import annotations

from pathlib import Path

from alitok.apps.probe.options import ProbeOptions
from alitok.core.files import file_name
from alitok.core.jobdir import JobDir, differences

_PARTS = ("tokenizer", "generator", "model")  # folders of every run, whose names identify nothing
_OUTPUTS = ("maps.npz", "influence.png", "reach.png", "report.html")
SMALL_GENERATOR = "a small one, trained for this"


def probed(options: ProbeOptions) -> dict[str, str]:
    """What is probed, as in the protocol of `probe.json`."""
    generator = options.generator or SMALL_GENERATOR
    return {"tokenizer": options.tokenizer, "data": options.data, "generator": generator}


def probe_directory(options: ProbeOptions) -> Path:
    """The directory, given or named after what is probed.

    Raises:
        AlitokError: it is a file, or holds other files or a probe of something else.
    """
    root = options.out or default_out(options)
    # Allowed are the files of a probe that was stopped while it wrote them.
    job = JobDir(root, "probe.json", "probe", _OUTPUTS, {"kind": "probe", "protocol": None}, allowed=_OUTPUTS)
    found = job.read()
    if found is not None:
        before, now = (
            {name: _resolved(facts.get(name)) for name in probed(options)}
            for facts in (found["protocol"], probed(options))
        )
        changed = differences(before, now)
        if changed:
            raise job.conflict(changed, before, now, hint="choose another directory with --out, or delete that one")
    return root


def default_out(options: ProbeOptions) -> Path:
    """`runs/probe-TOKENIZER-DATA` with the run's name for the model of a run, and `-generator` if one is given."""
    path = Path(options.tokenizer if ":" in options.tokenizer else Path(options.tokenizer).resolve())
    while path.name in _PARTS and path.parent.name:
        path = path.parent
    if path.name == "stage1" and path.parent.name:
        path = path.with_name(f"{path.parent.name}-stage1")
    generator = "" if options.generator is None else "-generator"
    return Path("runs", f"probe-{file_name(str(path))}-{file_name(options.data)}{generator}")


def _resolved(value: object) -> object:
    """An existing path however it is spelled; anything else as it is."""
    return str(Path(value).resolve()) if isinstance(value, str) and Path(value).exists() else value
