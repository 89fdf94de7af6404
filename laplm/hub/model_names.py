"""What the result of a tuning may be called: one name on every disk and in every command."""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Iterable

from laplm.errors import InputError, shown_name
from laplm.hub.locate import ALIASES, POCKET, repo_folder

_MOST = 64  # characters of a name
_NAME = re.compile(r"\w(?:[\w.-]*[\w-])?")
# Names that Windows keeps for devices, whatever ending they have.
_DEVICE = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)


def name_key(name: str) -> str:
    """What two names have in common that are one on some disks: the same letters in any case."""
    return unicodedata.normalize("NFC", name).casefold()


def check_model_name(name: str) -> str:
    """A name that a model can have, with its letters composed.

    Raises:
        InputError: it cannot; says why.
    """
    name = unicodedata.normalize("NFC", name.strip())
    shown = shown_name(name)
    if not name:
        raise InputError("a model's name cannot be empty; give one, such as tales")
    if len(name) > _MOST:
        raise InputError(
            f"the name {shown} has {len(name)} characters; give one of {_MOST} at most"
        )
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{shown} cannot be a model's name; letters, digits, dots, dashes and underscores "
            "can, beginning with a letter or a digit and not ending with a dot"
        )
    if _DEVICE.fullmatch(name):
        raise InputError(f"{shown} cannot be a model's name: Windows keeps it; choose another one")
    if name.lower().endswith(".gguf"):
        raise InputError(f"{shown} looks like a file; choose a name that does not end in .gguf")
    if name_key(name) in {name_key(known) for known in (POCKET, *ALIASES)}:
        raise InputError(f"{shown} is the name of another model; choose another one")
    return name


def name_from_file(file: str, taken: Iterable[str]) -> str:
    """A name made of a file's, with a number behind it where that is taken.

    Args:
        file: what the file is called, with its ending or without, perhaps with its folder.
        taken: names that cannot be had, each as ``name_key``.
    """
    there = set(taken)
    stem = re.split(r"[/\\]", unicodedata.normalize("NFC", file))[-1]
    stem = re.sub(r"(?<=.)\.[A-Za-z]{1,8}(\.(gz|bz2|xz))?$", "", stem)
    stem = re.sub(r"[^\w.-]+", "-", stem).strip("-._")[: _MOST - 6].strip("-._") or "tuned"
    for number in range(1, 1_000_000):
        name = stem if number == 1 else f"{stem}-{number}"
        with contextlib.suppress(InputError):
            if (
                name_key(name) not in there
                and check_model_name(name)
                and not repo_folder(name).is_dir()
            ):
                return name
    raise InputError(f"there is no free name like {stem}; give one")
