"""Models by name: what is on disk, and ``pull``, the only code that opens an outside connection."""

from __future__ import annotations

import json
import os
from pathlib import Path

from laplm.errors import ModelNotFoundError

# Names in use for years, and where their models live on the hub now.
ALIASES = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "distilgpt2": "distilbert/distilgpt2",
}
POCKET = "pocket"


def hub_cache_dir() -> Path:
    """The directory of downloaded models that ``huggingface_hub`` and transformers use too."""

    def clean(text: str) -> Path:
        return Path(os.path.expandvars(text)).expanduser()

    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if variable in os.environ:
            return clean(os.environ[variable])
    default = os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
    return clean(os.environ.get("HF_HOME", default)) / "hub"


def locate(name_or_path: str) -> Path:
    """The directory of a model: a path, ``pocket``, an alias such as ``gpt2``, or a hub id.

    Raises:
        ModelNotFoundError: nothing of this name is on disk.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if name_or_path == POCKET:
        return Path(__file__).with_name("pocket")
    for repo in dict.fromkeys([ALIASES.get(name_or_path, name_or_path), name_or_path]):
        folder = hub_cache_dir() / ("models--" + repo.replace("/", "--"))
        try:
            commit = (folder / "refs" / "main").read_text().strip()
        except OSError:
            continue
        if (folder / "snapshots" / commit / "config.json").is_file():
            return folder / "snapshots" / commit
    raise ModelNotFoundError(
        f"{name_or_path} is not on disk; `laplm pull {name_or_path}` downloads it"
    )
