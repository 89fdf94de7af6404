"""Files that are whole or not there: the one way in which laplm writes anything it makes.

A file is written under a temporary name in its own directory, flushed to the disk, and renamed;
then the rename itself is flushed. So a full disk, a crash or a power cut leaves what was there
before, and never half of something.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from laplm.errors import WriteError, format_bytes

ANOTHER_DIRECTORY = "choose another directory"
"""Advice where a person said where to write."""

BLOCK = 1 << 21
"""Bytes that a file is written in at a time: a large page of memory, where the system has them."""

_STALE_SECONDS = 3600  # temporary files older than this belong to a process that died


def write_file(
    path: Path,
    content: bytes | Callable[[IO[bytes]], object],
    *,
    advice: str = ANOTHER_DIRECTORY,
    size: int | None = None,
    error: type[WriteError] = WriteError,
) -> None:
    """Write a file whole, or not at all.

    Args:
        path: the file; its directory is made when it is not there.
        content: what it holds, or a function that writes that.
        advice: what to do where it cannot be written; ends the error's text.
        size: in bytes: refused at once when the disk has no room for it.
        error: the kind of error that is raised.

    Raises:
        WriteError: the disk is full or cannot be written.
    """
    if isinstance(content, bytes) and size is None:
        size = len(content)
    with (
        new_file(path, advice=advice, size=size, error=error) as temporary,
        temporary.open("xb", buffering=BLOCK) as file,
    ):
        if isinstance(content, bytes):
            file.write(content)
        else:
            content(file)


@contextlib.contextmanager
def new_file(
    path: Path,
    *,
    advice: str = ANOTHER_DIRECTORY,
    size: int | None = None,
    error: type[WriteError] = WriteError,
) -> Iterator[Path]:
    """A temporary name to write under, for what writes to paths; arguments as ``write_file``.

    The file takes its own name when the block ends well.
    """
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        if size is not None and _free_bytes(path.parent) < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            yield temporary
            with temporary.open("r+b") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(path.parent)
    except OSError as cause:
        raise make_write_error(path, cause, advice, size, error) from cause


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that nothing else has."""
    return path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")


def sync_directory(directory: Path) -> None:
    """Let a rename in a directory survive a power cut, where the system can do that."""
    with contextlib.suppress(OSError):  # Windows opens no directories
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_write_error(
    path: Path,
    cause: OSError,
    advice: str = ANOTHER_DIRECTORY,
    size: int | None = None,
    error: type[WriteError] = WriteError,
) -> WriteError:
    """The plain sentence for a failed write: what, why, and what to do."""
    final, parent = Path(*map(_final_name, path.parts)), path.parent
    # NumPy gives no number where only a part of an array could be written.
    if cause.errno not in (errno.ENOSPC, errno.EDQUOT, None):
        return error(f"cannot write {final}: {cause.strerror or cause}; {advice}")
    room = ""
    with contextlib.suppress(OSError):
        if size is not None:
            room = f" ({format_bytes(size)} needed, {format_bytes(_free_bytes(parent))} free)"
    return error(f"cannot write {final}: no space left{room}; free some space, or {advice}")


def reason_of(error: OSError | WriteError) -> str:
    """What the system says of a failed write: the error's own words, or those of its cause."""
    cause = error if isinstance(error, OSError) else error.__cause__
    return getattr(cause, "strerror", None) or "unknown reason"


def json_text(value: Any, **options: Any) -> str:
    """JSON that every program reads: NaN and infinities, which JSON has not, become null.

    Args:
        value: what ``json.dumps`` takes.
        options: of ``json.dumps``.
    """
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _remove_stale(path: Path) -> None:
    """Remove what a process that died while it wrote ``path`` has left."""
    before = time.time() - _STALE_SECONDS
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{12}}\.tmp")
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if name.fullmatch(entry.name) and entry.stat().st_mtime < before:
                    Path(entry.path).unlink()


def _free_bytes(directory: Path) -> int:
    import shutil  # brings all of Python's compression formats, which takes a moment

    return shutil.disk_usage(directory).free


def _final_name(name: str) -> str:
    """The name that a file or directory under a temporary one was going to take."""
    while temporary := re.fullmatch(r"\.(.+)\.[0-9a-f]{12}\.tmp", name):
        name = temporary[1]
    return name
