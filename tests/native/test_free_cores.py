"""How many cores other programs leave to us, by what the system counts."""

from __future__ import annotations

import os
import time
from collections import namedtuple

import psutil
import pytest

from laplm.native.free_cores import CpuTimes, FreeCores

Times = namedtuple("Times", "user nice system idle iowait steal guest", defaults=(0.0,) * 7)


class System:
    """A system that counts, for each CPU, these seconds in each second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cores, self.clock, self.ours = FreeCores(), 100.0, 0.0
        self.usable: set[int] | None = None
        self.times: list[Times] = []
        monkeypatch.setattr(psutil, "cpu_times", self._cpu_times)
        monkeypatch.setattr(time, "process_time", lambda: self.ours)
        monkeypatch.setattr(os, "sched_getaffinity", self._affinity, raising=False)

    def _cpu_times(self, percpu: bool) -> list[Times]:
        assert percpu
        return self.times

    def _affinity(self, _: int) -> set[int]:
        return set(range(len(self.times))) if self.usable is None else self.usable

    def measure(self, *cpus: Times, seconds: float = 0.2, ours: float = 1.0) -> float | None:
        """What a look says after so many seconds of these CPUs, ``ours`` being our share."""
        self.times = self.times or [Times(*[1000.0] * 7)] * len(cpus)
        self.cores.measure(self.clock)
        self.clock += seconds
        self.ours += ours * seconds
        self.times = [
            Times(*(old + seconds * new for old, new in zip(before, cpu, strict=True)))
            for before, cpu in zip(self.times, cpus, strict=True)
        ]
        return self.cores.measure(self.clock)


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    return System(monkeypatch)


BUSY, IDLE = Times(user=1.0), Times(idle=1.0)


def test_a_core_that_a_neighbour_keeps_busy_is_not_free(system: System) -> None:
    assert system.measure(BUSY, BUSY) == pytest.approx(1)
    assert system.measure(BUSY, Times(user=0.25, idle=0.75)) == pytest.approx(1.75)


def test_what_we_use_ourselves_is_free_for_us(system: System) -> None:
    assert system.measure(BUSY, BUSY, ours=2.0) == pytest.approx(2)
    assert system.measure(BUSY, IDLE) == pytest.approx(2)
    assert system.measure(IDLE, IDLE, ours=0.0) == pytest.approx(2)


def test_waiting_for_a_disk_and_programs_of_low_priority_take_no_core(system: System) -> None:
    assert system.measure(BUSY, Times(iowait=1.0)) == pytest.approx(2)
    assert system.measure(BUSY, Times(nice=1.0)) == pytest.approx(2)


def test_what_the_machine_below_a_virtual_one_takes_is_not_free(system: System) -> None:
    assert system.measure(BUSY, Times(user=0.4, steal=0.6)) == pytest.approx(1)


def test_times_of_virtual_machines_that_are_counted_twice_make_sense(system: System) -> None:
    guests = Times(user=1.0, guest=1.0)
    assert system.measure(guests, guests, seconds=0.25, ours=0.0) == pytest.approx(0)


def test_only_cpus_that_we_may_use_count(system: System) -> None:
    system.usable = {1, 3}
    assert system.measure(IDLE, BUSY, IDLE, BUSY) == pytest.approx(1)
    assert system.measure(BUSY, BUSY, BUSY, IDLE) == pytest.approx(2)


def test_a_system_without_affinity_tells_of_all_cpus(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert system.measure(BUSY, BUSY, IDLE) == pytest.approx(2)


@pytest.mark.parametrize(
    "cpu", [Times(), Times(idle=0.3), Times(idle=3.0)], ids=["no", "too little", "too much"]
)
def test_times_that_make_no_sense_tell_nothing(system: System, cpu: Times) -> None:
    assert system.measure(cpu, cpu) is None


def test_a_cpu_that_the_system_does_not_tell_of_tells_nothing(system: System) -> None:
    """CPU 1 of three is switched off: the second in the list is CPU 2."""
    system.usable = {2}
    assert system.measure(BUSY, BUSY) is None


@pytest.mark.parametrize(
    "error", [psutil.AccessDenied(), OSError(), NotImplementedError(), ValueError()]
)
def test_an_error_of_the_system_tells_nothing(
    system: System, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(percpu: bool) -> None:
        raise error

    system.measure(BUSY, BUSY)
    monkeypatch.setattr(psutil, "cpu_times", fail)
    assert system.cores.measure(system.clock + 0.2) is None
    assert system.cores.measure(system.clock + 0.4) is None


def test_the_first_look_and_one_that_comes_soon_after_tell_nothing(system: System) -> None:
    system.times = [BUSY, BUSY]
    assert FreeCores().measure(100.0) is None
    assert system.measure(BUSY, BUSY, seconds=0.02) is None


def test_a_look_after_other_cpus_were_allowed_tells_nothing(system: System) -> None:
    system.usable = {0}
    system.measure(BUSY, BUSY, BUSY)
    system.times, system.clock, system.usable = [IDLE] * 3, system.clock + 1, {0, 1, 2}
    assert system.cores.measure(system.clock) is None


def test_this_system_tells_of_the_cpus_that_this_process_may_use() -> None:
    times, affinity = CpuTimes.now(), getattr(os, "sched_getaffinity", None)
    assert times is not None
    assert times.cpus == (len(affinity(0)) if affinity else os.cpu_count())
    assert times.free > 0 < times.counted
