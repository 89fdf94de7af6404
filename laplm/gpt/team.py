"""The threads that run a forward pass together.

They are ordinary Python threads, each inside one compiled function that does not hold Python's
lock. Between forward passes they spin for a moment, since the next token is usually at hand, and
then sleep, so that an idle model costs nothing.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from laplm.gpt.jit import Engine
from laplm.gpt.kv_cache import aligned
from laplm.gpt.plan import (
    ARRIVALS,
    CURRENT_PLAN,
    FOLLOW,
    GENERATION,
    LEAD,
    PARKED,
    SHARE,
    STATES,
)


def default_threads() -> int:
    """One thread for each core that this process may use, not counting hyper-threads."""
    try:
        usable = sorted(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        return max(1, (os.cpu_count() or 2) // (1 if sys.platform == "darwin" else 2))
    topology, cores = "/sys/devices/system/cpu", set()
    for cpu in usable:
        try:
            cores.add(Path(f"{topology}/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            cores.add(str(cpu))
    return max(1, len(cores))


class Team:
    """``count`` threads, the caller's among them, that share an engine's work."""

    def __init__(self, engine: Engine, count: int) -> None:
        self.engine = engine
        self.count = count
        self._control = aligned(STATES + 8 * (count + 1), "int64")
        self._address = self._control.ctypes.data
        self.arrivals_address = self._address + ARRIVALS * 8
        self._lock = threading.Lock()
        self._wake = [threading.Semaphore(0) for _ in range(count)]
        for me in range(1, count):
            self._control[STATES + 8 * me] = PARKED
            name = f"laplm-{me}"
            threading.Thread(target=self._follow, args=(me,), name=name, daemon=True).start()

    @property
    def arrivals(self) -> int:
        """How often a thread has come to a barrier so far."""
        return int(self._control[ARRIVALS])

    def _follow(self, me: int) -> None:
        generation = 0
        while generation >= 0:
            self._wake[me].acquire()
            generation = self.engine(FOLLOW, self._address, me, generation)

    def run(self, plan_address: int, threads: int) -> None:
        """Run one plan to its end: on ``threads`` threads, as it says too, which is 1 or all."""
        if threads == 1:
            self.engine(SHARE, plan_address, 0, 0)
            return
        parked = self.engine(LEAD, self._address, plan_address, 0)
        if parked:
            for me in range(1, self.count):
                if parked >> me & 1:
                    self._wake[me].release()
            self.engine(SHARE, plan_address, 0, 0)

    def dissolve(self) -> None:
        """Let the threads end."""
        self._control[CURRENT_PLAN] = 0
        self._control[GENERATION] += 1
        for semaphore in self._wake[1:]:
            semaphore.release()
