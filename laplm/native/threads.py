"""The threads that run a forward pass together.

They are ordinary Python threads, each inside one compiled function that does not hold Python's
lock. Between forward passes they spin for a moment, since the next token is usually at hand, and
then sleep, so that an idle model costs nothing.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from laplm.native.cpu_features import sysctl
from laplm.native.jit import Engine
from laplm.native.memory import aligned

# What a compiled function of a pool is asked to do.
FORWARD, LAUNCH, WORKER_LOOP, LOG_SUM_EXP = range(4)
# A pool's control block: counters a cache line (8 numbers) apart.
GENERATION, CURRENT_ARGS, ARRIVALS, STATES = 0, 8, 16, 24
PARKED, RUNNING = 0, 1
SPINS_BEFORE_YIELD, SPINS_BEFORE_PARKING = 4000, 20000

_SYSTEM = Path("/sys/devices")  # where Linux tells of CPUs
_FAST = 0.75  # of the fastest core's capacity: slower ones would make all the others wait


def default_threads() -> int:
    """One thread for each fast core that this process may use, not counting hyper-threads.

    Where a CPU has performance and efficiency cores only the former count: every phase of a pass
    ends when its last thread does.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    if affinity is None:  # macOS and Windows
        if sys.platform == "darwin":
            return sysctl("hw.perflevel0.physicalcpu") or os.cpu_count() or 1
        return max(1, (os.cpu_count() or 2) // 2)
    usable = sorted(affinity(0))
    performance = _fast_cpus(usable)
    fast = [cpu for cpu in usable if cpu in performance] or usable
    return max(
        1, len({_read(f"system/cpu/cpu{c}/topology/thread_siblings_list") or c for c in fast})
    )


def _fast_cpus(usable: Sequence[int]) -> set[int]:
    """Those of Linux's CPUs that are performance cores: all, where there is one kind."""
    if listed := _read("cpu_core/cpus"):  # Intel's hybrid CPUs
        return _cpu_list(listed)
    capacity = {cpu: int(_read(f"system/cpu/cpu{cpu}/cpu_capacity") or 0) for cpu in usable}  # ARM
    return {cpu for cpu in usable if capacity[cpu] >= _FAST * max(capacity.values())}


def _read(name: str) -> str:
    """A line of a file of the system's; "" where there is none."""
    try:
        return (_SYSTEM / name).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _cpu_list(text: str) -> set[int]:
    """Linux's "0-3,8" as numbers."""
    out: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        out |= set(range(int(first), int(last or first) + 1))
    return out


class ThreadChoice:
    """Whether passes of one kind go to all threads or to one, by how long they take.

    When another program keeps a core busy, a thread of ours is taken off it for milliseconds, and
    all others wait for it at the next barrier: then one thread alone is quicker. One is tried at
    first, and when all are slower than they were or than one has been; while one goes on, all are
    tried every ``PROBE_SECONDS``, so that they are back soon after the other program has ended, or
    less often, so that attempts take no more than a tenth of the time.
    """

    DISTURBED = 1.4  # times what passes of all threads take at best
    PROBE_SECONDS = 0.15
    TRIED = 3  # passes for each attempt

    def __init__(self) -> None:
        self._alone = False
        self._all = self._one = 0.0  # seconds of a pass, the last ones counting most
        self._best, self._best_one = math.inf, 0.0  # of all threads, and of one
        self._trial = 0  # passes that are left of an attempt with the other way
        self._spent = 0.0  # seconds of it
        self._next = 0.0  # when the next attempt may begin

    @property
    def alone(self) -> bool:
        """Whether the next pass goes to one thread."""
        return self._alone != (self._trial > 0)

    def record(self, seconds: float, now: float) -> None:
        """A pass of the kind that ``alone`` said has taken so long, and ended at ``now``."""
        alone = self.alone
        if alone:
            self._one = seconds if self._one == 0 else 0.5 * (self._one + seconds)
            self._best_one = min(seconds, 1.001 * (self._best_one or seconds))
        else:
            self._all = seconds if self._all == 0 else 0.5 * (self._all + seconds)
            self._best = min(seconds, 1.001 * self._best)  # passes grow with their context
        if self._trial:
            self._spent += seconds
            self._trial -= 1
            known = self._all if alone else self._one
            if known and seconds > 2 * known:
                self._trial = 0  # that is clear enough
            if self._trial == 0:
                self._alone = self._one < self._all
                self._next = now + max(self.PROBE_SECONDS, 10 * self._spent)
        elif now >= self._next and (
            self._alone or self._all > min(self.DISTURBED * self._best, self._best_one)
        ):
            self._trial, self._spent = self.TRIED, 0.0
            if self._alone:
                self._all = 0.0
            else:
                self._one = 0.0


class ThreadPool:
    """``count`` threads, the caller's among them, that share an engine's work."""

    def __init__(self, engine: Engine, count: int) -> None:
        self.engine = engine
        self.count = count
        self._control = aligned(STATES + 8 * (count + 1), "int64")
        self._address = self._control.ctypes.data
        self.arrivals_address = self._address + ARRIVALS * 8
        self._lock = threading.Lock()
        self._wake = [threading.Semaphore(0) for _ in range(count)]
        for thread in range(1, count):
            self._control[STATES + 8 * thread] = PARKED
            name = f"laplm-{thread}"
            threading.Thread(target=self._work, args=(thread,), name=name, daemon=True).start()

    @property
    def arrivals(self) -> int:
        """How often a thread has come to a barrier so far."""
        return int(self._control[ARRIVALS])

    def _work(self, thread: int) -> None:
        generation = 0
        while generation >= 0:
            self._wake[thread].acquire()
            generation = self.engine(WORKER_LOOP, self._address, thread, generation)

    def run(self, args_address: int, threads: int) -> None:
        """Run one pass to its end: on ``threads`` threads, as its arguments say too: 1 or all."""
        if threads == 1:
            self.engine(FORWARD, args_address, 0, 0)
            return
        parked = self.engine(LAUNCH, self._address, args_address, 0)
        if parked:
            for thread in range(1, self.count):
                if parked >> thread & 1:
                    self._wake[thread].release()
            self.engine(FORWARD, args_address, 0, 0)

    def shutdown(self) -> None:
        """Let the threads end."""
        self._control[CURRENT_ARGS] = 0
        self._control[GENERATION] += 1
        for semaphore in self._wake[1:]:
            semaphore.release()
