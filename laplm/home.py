"""Where laplm keeps what it makes: prepared weights, compiled kernels, the server's tunings.

``LAPLM_HOME`` names the directory; the default is the platform's cache directory for a user.
Everything in it but the tunings (``runs``) can be deleted at any time and is made again when
needed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from laplm.errors import CacheError, visible


def directory(name: str) -> Path:
    """The directory ``name`` inside the cache, made if need be.

    What lies there under its name and is no directory is moved aside.

    Raises:
        CacheError: it cannot be made.
    """
    path = _root() / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir(exist_ok=True)
        except FileExistsError:
            move_aside(path)
            path.mkdir(exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error
    return path


def cannot_write(path: Path, error: OSError) -> CacheError:
    """The plain sentence for a failed write, in the cache directory or wherever a person chose."""
    ours = _root() in path.absolute().parents
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        if not ours:
            return CacheError(f"no space left to write {path}: free some, or choose another disk")
        return CacheError(
            f"no space left to write {path}: free some, or set LAPLM_HOME to a directory on a "
            "disk that has room"
        )
    reason = error.strerror or error.__class__.__name__
    if not ours:
        return CacheError(f"cannot write {path} ({reason}): choose another directory")
    return CacheError(
        f"cannot write {path} ({reason}): set LAPLM_HOME to a directory that can be written"
    )


def _root() -> Path:
    """The cache directory, which need not be there.

    Raises:
        CacheError: LAPLM_HOME begins with the home directory of nobody.
    """
    root = os.environ.get("LAPLM_HOME")
    if root:
        try:
            return Path(root).expanduser().absolute()
        except RuntimeError:
            raise CacheError(
                f"LAPLM_HOME is {root!r}, and nobody of this name has a home directory here; set "
                "it to a directory that can be written"
            ) from None
    import platformdirs

    return Path(platformdirs.user_cache_dir("laplm", appauthor=False))


def reason_of(error: OSError | CacheError) -> str:
    """What the system says of a failed write: the error's own words, or those of its cause."""
    cause = error if isinstance(error, OSError) else error.__cause__
    return getattr(cause, "strerror", None) or "unknown reason"


def warn(message: str) -> None:
    """Say something beside the result: one line on standard error, unless logging is set up."""
    import logging  # takes longer to import than most runs have anything to say

    logging.getLogger("laplm").warning("%s", visible(message))


def move_aside(path: Path) -> None:
    """Rename what lies where something of ours belongs, and say so; it is not deleted.

    Raises:
        CacheError: it cannot be renamed.
    """
    other = path.with_name(f"{path.name}.moved-{os.urandom(3).hex()}")
    try:
        path.rename(other)
    except FileNotFoundError:  # another process was first
        return
    except OSError as error:
        raise cannot_write(path, error) from error
    warn(f"{path} was in the way of what laplm keeps there; it is now called {other.name}")


def clear_the_way(path: Path) -> None:
    """Move aside what a new file at ``path`` could not replace, or should not: all but a file.

    Raises:
        CacheError: it cannot be moved.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            move_aside(path)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and move it into place, so it is whole or not there.

    Raises:
        CacheError: the disk is full or the directory cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{os.urandom(6).hex()}.tmp")
    try:
        # Not tempfile's, whose files only their owner may read; "x": never someone else's file.
        with temporary.open("xb") as file:
            file.write(content)
        clear_the_way(path)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise cannot_write(path, error) from error


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
