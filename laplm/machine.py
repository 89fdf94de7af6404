"""What the machine tells of memory and processes, the same on Linux, macOS and Windows.

psutil asks each system in its own way; a value that a system does not give, or not to this user,
is None here, never a guess.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path


def resident_bytes() -> int:
    """Physical memory that this process holds now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """The most physical memory that this process has held."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    try:
        # Unlike getrusage's number, this one does not count what a parent process held.
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, ValueError, IndexError, StopIteration):
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)  # bytes there, KiB elsewhere


def available_bytes() -> int:
    """Memory that could be had now without swapping, what this process holds included."""
    import psutil

    return int(psutil.virtual_memory().available) + resident_bytes()


def total_bytes() -> int:
    """Physical memory of the machine."""
    try:
        # Linux. psutil reads it there too, but to import it takes longer than to open a model.
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:"))
    except (OSError, ValueError, IndexError, StopIteration):
        pass
    import psutil

    return int(psutil.virtual_memory().total)


def process_listening_on(port: int) -> str | None:
    """Which process listens on a TCP port: "laplm (process 123)"; None where nobody tells."""
    import psutil

    try:
        for connection in psutil.net_connections(kind="tcp"):
            listens = connection.status == psutil.CONN_LISTEN
            if listens and connection.laddr.port == port and connection.pid is not None:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    except psutil.Error:  # macOS tells of other processes' connections only to its administrator
        pass
    return None


def terminate_process(pid: int, naming: str) -> bool:
    """Ask a process to end, if a word of its command line ends in ``naming``.

    Args:
        pid: the process; by now the number may be another program's.
        naming: what only the process that is meant has on its command line.

    Returns:
        Whether it was asked.
    """
    import psutil

    try:
        if not any(word.endswith(naming) for word in psutil.Process(pid).cmdline()):
            return False
        # psutil's own would compare times of start, which move when the machine's clock is set.
        os.kill(pid, signal.SIGTERM)
    except (psutil.Error, OSError, ValueError, OverflowError):
        return False
    return True
