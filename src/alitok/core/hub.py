"""Finds a saved model: a local directory, or a repository on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from alitok.core.errors import AlitokError, error_text


def locate(path_or_name: str | Path, *, offline: bool = False, part: str | None = None) -> Path:
    """The local directory of a saved model; one of the hub, `owner/name`, is downloaded to the hub's own cache.

    Args:
        offline: use only the hub's cache, as with the variable HF_HUB_OFFLINE.
        part: `tokenizer` or `generator`: the subdirectory to return, if this is a saved pipeline.

    Raises:
        AlitokError: it is neither a directory nor available from the hub.
    """
    path = _directory(path_or_name, offline)
    if (path / "run.toml").is_file() and (path / "model").is_dir():
        raise AlitokError(f"{path} is a run directory; its models are in {path / 'model'}.")
    return path / part if part is not None and (path / "pipeline.json").exists() else path


def is_hub_name(name: str) -> bool:
    """Whether `name` has the form of a hub repository, `owner/name`; patterns, options and dotted paths do not."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not name.startswith(".")


def _directory(path_or_name: str | Path, offline: bool) -> Path:
    path = Path(path_or_name)
    if path.is_dir():
        return path
    name = str(path_or_name)
    if path.exists() or not is_hub_name(name):
        raise AlitokError(f"{name} is not a directory with a saved model; check the path.")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise AlitokError(f"There is no directory {name}; to search the hub, run: pip install 'alitok[hub]'.") from None
    try:
        return Path(snapshot_download(name, local_files_only=offline))
    except (OSError, ValueError) as error:  # offline, unknown or private repository, no network
        reason = error_text(error).removeprefix("Got:").strip().removesuffix(".")  # the library's prefix
        raise AlitokError(f"There is no directory {name}, and the hub did not return it: {reason}.") from None
