"""Where laplm keeps what it makes: prepared weights, compiled kernels, the server's tunings.

``LAPLM_HOME`` names the directory; the default is the platform's cache directory for a user.
Everything in it but the tunings (``runs``) can be deleted at any time and is made again when
needed.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from laplm.errors import CacheError


def directory(name: str) -> Path:
    """The directory ``name`` inside the cache, made if need be.

    Raises:
        CacheError: it cannot be made.
    """
    path = _root() / name
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error
    return path


def cannot_write(path: Path, error: OSError) -> CacheError:
    """The plain sentence for a failed write, in the cache directory or wherever a person chose."""
    ours = _root() in path.absolute().parents
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        elsewhere = "set LAPLM_HOME to" if ours else "choose"
        return CacheError(
            f"no space left to write {path}: free some, or {elsewhere} a directory on a disk that "
            "has room"
        )
    reason = error.strerror or error.__class__.__name__
    return CacheError(
        f"cannot write {path} ({reason}): {'set LAPLM_HOME to' if ours else 'choose'} a directory "
        "that can be written"
    )


def _root() -> Path:
    """The cache directory, which need not be there."""
    root = os.environ.get("LAPLM_HOME")
    if root:
        return Path(root).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("laplm", appauthor=False))


def reason_of(error: OSError | CacheError) -> str:
    """What the system says of a failed write: the error's own words, or those of its cause."""
    cause = error if isinstance(error, OSError) else error.__cause__
    return getattr(cause, "strerror", None) or "unknown reason"


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
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise cannot_write(path, error) from error
