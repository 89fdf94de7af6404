"""The built-in model's files: where they are, whether they are as they were packed, their card.

``SHA256SUMS`` beside them has the form that ``sha256sum`` writes, so ``sha256sum -c SHA256SUMS``
checks them too. The directory may lie anywhere in a Python installation, far from what checks the
rest of the disk, and a flipped bit in the weights would only show as a model that writes worse.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from laplm.errors import ModelFormatError, ModelNotFoundError

# Not importlib.resources: weights are mapped, which takes a real file in any case.
DIRECTORY = Path(__file__).with_name("pocket")
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
CHECKSUMS = "SHA256SUMS"
CARD = "MODEL_CARD.md"
_ADVICE = "reinstall laplm from a fresh copy"


def checksums(directory: Path) -> str:
    """What ``SHA256SUMS`` says of a model directory whose files are as they should be.

    Raises:
        OSError: a file is not there or cannot be read.
    """
    lines = []
    for name in FILES:
        with (directory / name).open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    return "".join(lines)


def check(directory: Path | None = None) -> None:
    """Read every file of the built-in model and compare it with its checksum.

    At each start, also when the weights are prepared already: it costs less than a hundredth of a
    second for 10 MB, and sizes and times do not tell of a damaged disk or a bad copy.

    Args:
        directory: Where the files are; None means in the package.

    Raises:
        ModelNotFoundError: a file is missing; names it.
        ModelFormatError: a file is damaged or cannot be read; names it.
    """
    directory = directory or DIRECTORY
    try:
        recorded = (directory / CHECKSUMS).read_text(encoding="ascii", errors="replace")
        found = checksums(directory)
    except FileNotFoundError as error:
        raise ModelNotFoundError(
            f"the built-in model is not whole: {error.filename} is missing; {_ADVICE}"
        ) from None
    except OSError as error:
        raise ModelFormatError(
            f"the built-in model's {error.filename} cannot be read ({error.strerror}); check who "
            f"may read it, or {_ADVICE}"
        ) from None
    good = set(recorded.splitlines())
    damaged = [line.split()[1] for line in found.splitlines() if line not in good]
    if damaged:
        raise ModelFormatError(
            f"the built-in model is damaged: {' and '.join(damaged)} in {directory} "
            f"{'does' if len(damaged) == 1 else 'do'} not match {CHECKSUMS}; {_ADVICE}"
        )


def summary(directory: Path | None = None) -> str | None:
    """The first paragraph of the model card on one line; None when there is no card to read.

    Args:
        directory: Where the files are; None means in the package.
    """
    try:
        text = ((directory or DIRECTORY) / CARD).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    for paragraph in re.split(r"\n\s*\n", text.replace("\r\n", "\n")):
        if paragraph.strip() and not paragraph.lstrip().startswith(("#", "---", "|", "<!--")):
            plain = re.sub(r"\[([^]]*)\]\([^)]*\)|<(https?:[^>]*)>", r"\1\2", paragraph)
            return " ".join(plain.replace("**", "").split())
    return None
