"""The licence of a model, as far as its files tell."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from laplm import built_in
from laplm.errors import LaplmError
from laplm.hub.locate import known_model

if TYPE_CHECKING:
    from laplm.model.files.gguf_reader import GGUFFile

_CARD = "README.md"
_CARD_BYTES = 1 << 16  # in which its settings end
_FIELD = r"^(license|license_name):[ \t]*['\"]?([^'\"\n#]+)"


def licence_of(path: Path, file: GGUFFile | None = None) -> str | None:
    """What a model's licence is called; None where nothing here says so.

    It is looked for in the list of known models, in the settings of a GGUF file, and at the head of
    the model card that the hub keeps beside the weights.

    Args:
        path: the model's directory, or its GGUF file.
        file: the tables of that GGUF file, where they have been read already.
    """
    if path.resolve() == built_in.DIRECTORY.resolve():
        return "apache-2.0, as laplm"
    known = known_model(path)
    if known is not None:
        return known.licence
    if file is None and not path.is_file():
        return _of_card(path / _CARD)
    from laplm.model.files.gguf_reader import read_gguf

    with contextlib.suppress(LaplmError):
        found = (file or read_gguf(path)).metadata.get("general.license")
        return found if isinstance(found, str) and found.strip() else None
    return None


def _of_card(path: Path) -> str | None:
    """The hub's own field; where that says "other", the name that the makers give it."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        text = file.read(_CARD_BYTES).decode("utf-8", errors="replace")
        head = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
        fields = re.findall(_FIELD, head[1], re.MULTILINE) if head else []
        said: dict[str, str] = {name: value.strip() for name, value in fields}
        if said.get("license") == "other":
            return said.get("license_name", "other")
        return said.get("license")
    return None
