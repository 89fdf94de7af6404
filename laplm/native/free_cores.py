"""How many cores other programs leave to this one, as the system counts."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class CpuTimes:
    """What the system has counted until a moment, in seconds, for the CPUs that we may use."""

    cpus: int
    counted: float  # all CPUs together, whatever they did
    free: float  # not taken by others: idle, or ours

    @classmethod
    def now(cls) -> Self | None:
        """The present ones; None where the system tells nothing that makes sense."""
        import psutil

        affinity = getattr(os, "sched_getaffinity", None)  # Linux
        try:
            times = psutil.cpu_times(percpu=True)
            usable = affinity(0) if affinity else range(len(times))
            if len(usable) < len(times):
                times = [times[cpu] for cpu in sorted(usable)]
        except (psutil.Error, OSError, RuntimeError, ValueError, IndexError):
            return None
        # A program of low priority gives way to our threads; where we have one ourselves our time
        # counts twice, as if a core were free.
        names = "idle", "iowait", "nice"  # each system has only some of them
        free = sum(getattr(cpu, name, 0.0) for cpu in times for name in names)
        return cls(len(times), sum(map(sum, times)), free + time.process_time())


class FreeCores:
    """How many cores other programs have left to this one between one look and the next.

    After a pass, which has taken all else out of the caches, a look takes 0.2 milliseconds, and the
    first one of a process some 20 (psutil is imported).
    """

    LEAST = 0.1  # seconds between looks: the system counts in hundredths

    def __init__(self) -> None:
        self._last: tuple[float, CpuTimes | None] = 0.0, None

    def measure(self, now: float) -> float | None:
        """Cores on average from the last look to ``now`` (seconds), those that we used among them.

        None where that cannot be said: at the first look, soon after another, or when the system
        counts no such time.
        """
        (then, old), (_, new) = self._last, (now, CpuTimes.now())
        self._last = now, new
        seconds = now - then
        if old is None or new is None or seconds < self.LEAST:
            return None
        # Linux counts the time of guests twice.
        if not 0.5 < (new.counted - old.counted) / (seconds * new.cpus) < 2.5:
            return None
        return (new.free - old.free) / seconds
