"""Where a probe is written, so that no probe takes the place of another one's, or of other files.

Enters: what is probed, as the user wrote it. Leaves: a directory, or a refusal.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from alitok.core.errors import AlitokError
from alitok.core.files import read_json
from alitok.run.originals import file_name

_PARTS = ("tokenizer", "generator", "model")  # folders that every run has, so that their names tell nothing
_FILES = ("probe.json", "maps.npz", "influence.png", "reach.png", "report.html")
A_SMALL_ONE = "a small one, trained for this"


def default_place(tokenizer: str, data: str, generator: str | None) -> Path:
    """`runs/probe-TOKENIZER-DATA`, of a run's model under the run's name; `-generator` behind it where one is given."""
    path = Path(tokenizer if ":" in tokenizer else Path(tokenizer).resolve())
    while path.name in _PARTS and path.parent.name:
        path = path.parent
    if path.name == "stage1" and path.parent.name:
        path = path.with_name(f"{path.parent.name}-stage1")
    return Path("runs", f"probe-{file_name(str(path))}-{file_name(data)}{'' if generator is None else '-generator'}")


def probed(tokenizer: str, data: str, generator: str | None) -> dict[str, str]:
    """What a probe is of, as its `probe.json` has it among all that the numbers depend on."""
    return {"tokenizer": tokenizer, "data": data, "generator": generator or A_SMALL_ONE}


def require_place(place: Path, subject: Mapping[str, str]) -> None:
    """Refuse a directory that holds something else than an earlier probe of the same.

    Raises:
        AlitokError: it is a file, or holds other files or a probe of something else.
    """
    if place.exists() and not place.is_dir():
        raise AlitokError(f"{place} is a file; give a directory with --out.")
    if not place.is_dir():
        return
    foreign = [file.name for file in place.iterdir() if file.name not in _FILES and not file.name.startswith(".")]
    if foreign:
        raise AlitokError(
            f"{place} holds something that `alitok probe` did not write, such as {min(foreign)}; give another "
            "directory with --out."
        )
    path = place / "probe.json"
    if not path.exists():
        return
    found = read_json(path)
    facts = found.get("protocol") if isinstance(found, dict) and found.get("kind") == "probe" else None
    if not isinstance(facts, dict):
        raise AlitokError(f"{path} was not written by `alitok probe`; give another directory with --out.")
    for name, value in subject.items():
        if _in_full(facts.get(name)) != _in_full(value):
            raise AlitokError(
                f"{place} holds a probe of something else ({name}: {facts.get(name)}, not {value}); give another "
                "directory with --out, or delete that one."
            )


def _in_full(value: object) -> object:
    """A path that is there, however it is spelt; anything else as it is."""
    return str(Path(value).resolve()) if isinstance(value, str) and Path(value).exists() else value
