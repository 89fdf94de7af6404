"""How the threads of a pool share a forward pass: work stealing, barriers, launch and sleep.

A phase (a linear layer, attention, …) has a number of items: tokens, tiles of output rows, heads.
Each thread claims some of its own range at a time, then steals from the others'. A spin barrier
ends the phase. A thread that waits for others prefetches the weights that come next.
"""

from __future__ import annotations

from typing import Any

from laplm.model.engine import kernel_args as k
from laplm.native import lower, simd
from laplm.native import threads as pool
from laplm.native.isa import Isa
from laplm.native.simd import (
    atomic_add,
    atomic_get,
    atomic_set,
    atomic_swap_if,
    get_i64,
    give_way,
    prefetch,
)


def make_barrier(isa: Isa) -> Any:
    """``barrier(args, thread, phase, weights, size)``: until every thread has ended the phase.

    Returns the next phase. ``weights`` are those of the next matrix, of ``size`` bytes: a thread
    prefetches the beginning of its share, and more of it while it waits.
    """
    pause = simd.make_pause(isa)

    @lower.kernel
    def barrier(args: int, thread: int, phase: int, weights: int, size: int) -> int:
        threads = get_i64(args, k.N_THREADS)
        share = size // threads
        start = weights + share * thread
        ahead = min(k.PREFETCH_BYTES, size)
        for line in range(0, ahead, 64):
            prefetch(start + line)
        counter = get_i64(args, k.BARRIER)
        target = get_i64(args, k.BARRIER_START) + (phase + 1) * threads
        atomic_add(counter, 1)
        limit = min(k.MOST_PREFETCHED, share)
        spins = 0
        while atomic_get(counter) < target:
            if ahead < limit:
                prefetch(start + ahead)
                ahead += 64
            else:
                pause()
                spins += 1
            if spins == pool.SPINS_BEFORE_YIELD:  # the thread we wait for may need this core
                give_way()
                spins = 0
        return phase + 1

    return barrier


@lower.kernel
def claim_items(args: int, phase: int, thread: int, count: int, size: int) -> tuple[int, int]:
    """The next ``size`` items of ``range(count)``, or fewer: (start, end); (-1, -1) at the end.

    Work stealing: a thread's own range first, then what is left of the others'.
    """
    threads = get_i64(args, k.N_THREADS)
    claims = (count + size - 1) // size
    for step in range(threads):
        victim = thread + step
        if victim >= threads:
            victim -= threads
        first, last = claims * victim // threads, claims * (victim + 1) // threads
        counter = get_i64(args, k.COUNTERS) + (phase * threads + victim) * 64
        if first + atomic_get(counter) < last:
            claim = first + atomic_add(counter, 1)
            if claim < last:
                return claim * size, min((claim + 1) * size, count)
    return -1, -1


def make_pool(isa: Isa, forward: Any) -> tuple[Any, Any]:
    """``launch(control, args)`` for the caller's thread, ``worker_loop`` for all others."""
    pause = simd.make_pause(isa)

    @lower.kernel
    def launch(control: int, args: int) -> int:
        """Announce ``args`` to the threads that it counts, and run this thread's part.

        Where some are parked it runs nothing, and returns how many: the caller wakes those marked
        ``TO_WAKE``, then runs ``forward(args, 0)``. Else it returns 0. Other threads of the pool
        are told nothing, and so touch nothing of ``args``.
        """
        atomic_set(control + pool.CURRENT_ARGS * 8, args)
        parked = 0
        for thread in range(1, get_i64(args, k.N_THREADS)):
            part = control + (pool.THREADS + thread * 8) * 8
            atomic_add(part + pool.GENERATION * 8, 1)
            if atomic_swap_if(part + pool.STATE * 8, pool.PARKED, pool.RUNNING) == 1:
                atomic_set(part + pool.TO_WAKE * 8, 1)
                parked += 1
        if parked == 0:
            forward(args, 0)
        return parked

    @lower.kernel
    def worker_loop(control: int, thread: int, generation: int) -> int:
        """Run what is announced after ``generation``; returns the last one's number.

        Returns when nothing has come for a while (the thread is then marked as parked), or -1 when
        the pool is shut down (arguments of 0).
        """
        part = control + (pool.THREADS + thread * 8) * 8
        state, announced = part + pool.STATE * 8, part + pool.GENERATION * 8
        while True:
            spins = 0
            while atomic_get(announced) == generation:
                pause()
                spins += 1
                if spins > pool.SPINS_BEFORE_PARKING:
                    atomic_set(state, pool.PARKED)
                    # What is announced in between either finds us parked, and will wake us, or we
                    # take the mark back and run it now.
                    if atomic_get(announced) == generation:
                        return generation
                    if atomic_swap_if(state, pool.PARKED, pool.RUNNING) == 0:
                        return generation
            generation += 1
            args = atomic_get(control + pool.CURRENT_ARGS * 8)
            if args == 0:
                return -1
            forward(args, thread)

    return launch, worker_loop
