"""The threads that run a forward pass together.

They are ordinary Python threads, each inside one compiled function that does not hold Python's
lock. Between forward passes they spin for a moment, since the next token is usually at hand, and
then sleep, so that an idle model costs nothing.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from laplm.native.cpu_features import sysctl
from laplm.native.free_cores import FreeCores
from laplm.native.jit import Engine
from laplm.native.memory import aligned

# What a compiled function of a pool is asked to do.
FORWARD, LAUNCH, WORKER_LOOP, LOG_SUM_EXP = range(4)
# A pool's control block, its parts a cache line (8 numbers) apart; the last ones are the threads'.
CURRENT_ARGS, ARRIVALS, THREADS = 0, 8, 16
# In a thread's part: is it asleep; how many passes it was told of; must it be woken.
STATE, GENERATION, TO_WAKE = 0, 1, 2
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
        fast_cores = sysctl("hw.perflevel0.physicalcpu") if sys.platform == "darwin" else None
        return fast_cores or _physical_cores()
    usable = sorted(affinity(0))
    performance = _fast_cpus(usable)
    fast = [cpu for cpu in usable if cpu in performance] or usable
    return max(
        1, len({_read(f"system/cpu/cpu{c}/topology/thread_siblings_list") or c for c in fast})
    )


def _physical_cores() -> int:
    """Cores that this process may use, as psutil counts them; macOS lets nobody choose them."""
    import psutil

    process, logical = psutil.Process(), psutil.cpu_count() or 1
    usable = len(process.cpu_affinity() or ()) if hasattr(process, "cpu_affinity") else logical
    return max(1, min(psutil.cpu_count(logical=False) or logical, usable))


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
    """How many threads make passes of one kind, by how long they take.

    When another program keeps a core busy, a thread of ours is taken off it for milliseconds, and
    all others wait for it at the next barrier: then fewer threads are quicker. Fewer are tried at
    first, and when the present ones are slower than they were or than fewer have been. While it is
    not all of them, more are tried again and again, so that all are back within a second of the
    other program's end; attempts that fail become rarer, and cost less than a tenth of the time.
    Where the system says that other programs leave no core for more, more are tried every other
    second at most, for less than a hundredth of the time.
    """

    DISTURBED = 1.4  # times what passes take at best
    PAUSES = 0.15, 0.4  # seconds between attempts: after one that came off, and at most
    ANYWAY = 2.0  # seconds after which more are tried though no core is free for them
    TRIED = 3  # passes for each attempt; the median counts, for threads that were asleep come late
    CLEAR = 10  # times what passes take now: no need to go on with an attempt
    GAIN = 0.93  # times what passes take now: with this, more threads are worth it

    def __init__(
        self, count: int, free_cores: Callable[[float], float | None] | None = None
    ) -> None:
        """At most ``count``; ``free_cores`` is ``FreeCores.measure``, or as that."""
        self._counts = sorted({count, max(1, count - 1), (count + 1) // 2, 1}, reverse=True)
        self._level = 0  # which of them make passes
        self._seconds = [0.0] * len(self._counts)  # of a pass, the last ones counting most
        self._best = [0.0] * len(self._counts)
        self._trial: int | None = None  # which of them are tried
        self._tried: list[float] = []  # seconds of this attempt's passes
        self._tried_fewer = False  # by the last attempt
        self._pause, _ = self.PAUSES
        self._next = 0.0  # when the next attempt may begin
        self._next_anyway = 0.0  # though no core is free
        self._free_cores = free_cores or FreeCores().measure

    @property
    def threads(self) -> int:
        """How many the next pass goes to."""
        return self._counts[self._level if self._trial is None else self._trial]

    def record(self, seconds: float, now: float) -> None:
        """A pass of as many as ``threads`` said has taken so long, and ended at ``now``."""
        level = self._level if self._trial is None else self._trial
        best = self._best[level] or seconds
        self._best[level] = min(seconds, 1.001 * best)  # passes grow with their context
        if self._trial is not None:
            self._tried.append(seconds)
            takes, worth = self._seconds[self._level], self._worth(self._trial)
            quick = sum(tried < worth for tried in self._tried)
            settled = max(quick, len(self._tried) - quick) > self.TRIED // 2  # the median is
            if settled or seconds > self.CLEAR * takes:
                self._decide(self._trial, now)
            return
        known = self._seconds[level]
        self._seconds[level] = 0.5 * (known + seconds) if known else seconds
        if now >= self._next:
            self._try_another(now)

    def _worth(self, tried: int) -> float:
        """Seconds of a pass below which those threads are to go on."""
        return (self.GAIN if tried < self._level else 1.0) * self._seconds[self._level]

    def _core_for_more(self, now: float) -> bool:
        """Have other programs left a core for more threads, as far as the system tells?"""
        if now >= self._next_anyway:
            return True
        free = self._free_cores(now)
        more, these = self._counts[self._level - 1 : self._level + 1]
        return free is None or free >= (these + more) / 2

    def _try_another(self, now: float) -> None:
        """Try fewer threads where something disturbs these, else, or by turns, more."""
        level, fewer = self._level, self._level + 1
        disturbed = fewer < len(self._counts) and self._seconds[level] > min(
            self.DISTURBED * self._best[level], self._best[fewer]
        )
        if level > 0 and (self._tried_fewer or not disturbed):
            if not self._core_for_more(now):
                self._tried_fewer, self._next = False, now + self.PAUSES[0]
                return
            self._trial = level - 1
        elif disturbed:
            self._trial = fewer
        else:
            return
        self._tried_fewer, self._tried = self._trial == fewer, []

    def _decide(self, tried: int, now: float) -> None:
        """Go on with the threads that were tried, or as before."""
        first, most = self.PAUSES
        takes = self._seconds[self._level]
        lost = sum(self._tried) - len(self._tried) * takes
        worth = self._worth(tried)
        self._seconds[tried] = sorted(self._tried)[len(self._tried) // 2]
        if self._seconds[tried] < worth:
            self._level, self._pause = tried, first
        elif tried < self._level:
            self._pause = min(most, 2 * self._pause)
        else:
            self._best[self._level] = takes  # slower than they were, and yet the best there is
        self._next = now + max(self._pause, 10 * lost)
        self._next_anyway = now + max(self.ANYWAY, 100 * lost)
        self._trial = None
        if self._level > 0:
            self._free_cores(now)  # from here on these threads alone are ours


class ThreadPool:
    """``count`` threads, the caller's among them, that share an engine's work."""

    def __init__(self, engine: Engine, count: int) -> None:
        self.engine = engine
        self.count = count
        self._control = aligned(THREADS + 8 * (count + 1), "int64")
        self._address = self._control.ctypes.data
        self.arrivals_address = self._address + ARRIVALS * 8
        self._lock = threading.Lock()
        self._wake = [threading.Semaphore(0) for _ in range(count)]
        for thread in range(1, count):
            self._control[THREADS + 8 * thread + STATE] = PARKED
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
        """Run one pass to its end, on ``threads`` threads, as its arguments say too."""
        if threads == 1:
            self.engine(FORWARD, args_address, 0, 0)
        elif self.engine(LAUNCH, self._address, args_address, 0):
            for thread in range(1, threads):
                to_wake = THREADS + 8 * thread + TO_WAKE
                if self._control[to_wake]:
                    self._control[to_wake] = 0
                    self._wake[thread].release()
            self.engine(FORWARD, args_address, 0, 0)

    def shutdown(self) -> None:
        """Let the threads end."""
        self._control[CURRENT_ARGS] = 0
        for thread in range(1, self.count):
            self._control[THREADS + 8 * thread + GENERATION] += 1
            self._wake[thread].release()
