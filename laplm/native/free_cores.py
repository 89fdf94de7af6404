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
        # Linux counts guests' time as user time too. A program of low priority gives way to our
        # threads; where we have one ourselves our time counts twice, as if a core were free.
        counted = sum(sum(cpu) - _of(cpu, "guest", "guest_nice") for cpu in times)
        free = sum(_of(cpu, "idle", "iowait", "nice") for cpu in times)
        return cls(len(times), counted, free + time.process_time())


def _of(times: object, *names: str) -> float:
    """The sum of these times; each system has only some of them."""
    return sum(getattr(times, name, 0.0) for name in names)


class FreeCores:
    """How many cores other programs have left to this one between one look and the next.

    After a pass, which has taken all else out of the caches, a look takes 0.2 milliseconds, and the
    first one of a process some 20 (psutil is imported).
    """

    LEAST = 0.1  # seconds between looks: the system counts in hundredths

    def __init__(self) -> None:
        self._last: tuple[float, CpuTimes | None] = 0.0, None

    def look(self, now: float) -> float | None:
        """Cores on average from the last look to ``now`` (seconds), those that we used among them.

        None where that cannot be said: at the first look, soon after another, or when the system
        counts no such time.
        """
        (then, old), (_, new) = self._last, (now, CpuTimes.now())
        self._last = now, new
        seconds = now - then
        if old is None or new is None or old.cpus != new.cpus or seconds < self.LEAST:
            return None
        if not 0.5 < (new.counted - old.counted) / (seconds * new.cpus) < 2:
            return None
        return (new.free - old.free) / seconds
