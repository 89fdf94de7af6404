"""One process at a time in a directory: two trainings that write there would lose one model.

The lock is the system's (flock, or Windows's own), by ``filelock``: it goes with the process that
holds it, however that ends, so a file that a killed one left behind locks nothing. Who holds it is
written beside it, in a file of its own, for Windows lets nobody else read a locked one.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import filelock

from laplm.errors import InputError
from laplm.files import write_file

LOCK = "lock"
HOLDER = "lock.json"


@contextlib.contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Hold a directory to the end of the block; of what was made for that nothing is left behind.

    Args:
        directory: is there already.

    Raises:
        WriteError: the disk is full.
        InputError: another process holds it, or nothing can be written there.
    """
    lock = filelock.FileLock(directory / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise InputError(
            f"{directory} is in use by {_holder(directory)}; let that end, or choose another "
            "directory"
        ) from None
    except OSError as error:
        raise InputError(
            f"{directory} cannot be locked ({error.strerror}); choose another directory"
        ) from None
    try:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        values = {"pid": os.getpid(), "host": platform.node(), "since": now}
        write_file(directory / HOLDER, (json.dumps(values) + "\n").encode())
        yield
    finally:
        for name in (HOLDER, LOCK):  # while it is held; Windows takes the second away by itself
            with contextlib.suppress(OSError):
                (directory / name).unlink()
        lock.release()


def check_unlocked(directory: Path) -> None:
    """Refuse a directory that another process holds; nothing is made there.

    Raises:
        InputError: as ``lock_directory`` does.
    """
    if (directory / LOCK).exists():
        with lock_directory(directory):
            pass


def _holder(directory: Path) -> str:
    """Which process, for a person who wants to find it."""
    try:
        values = json.loads((directory / HOLDER).read_text(encoding="utf-8"))
        pid, host = int(values["pid"]), str(values["host"])
        since = datetime.fromisoformat(values["since"]).astimezone()
    except (OSError, ValueError, KeyError, TypeError):  # it has not written that yet
        return "another process"
    return f"process {pid} on {host} since {since:%Y-%m-%d %H:%M}"
