"""How many threads there are, and what they make of a machine that others use as well."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from laplm.native import threads as module
from laplm.native.threads import ThreadChoice, default_threads

Machine = Callable[..., int]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The number of threads on a machine whose files say this."""

    def threads(siblings: list[str], *, usable: int | None = None, **files: str) -> int:
        for cpu, text in enumerate(siblings):
            place = tmp_path / f"system/cpu/cpu{cpu}/topology/thread_siblings_list"
            place.parent.mkdir(parents=True)
            place.write_text(text + "\n")
        for name, text in files.items():
            for cpu, part in enumerate(text.split("|")):
                if name == "capacity":
                    (tmp_path / f"system/cpu/cpu{cpu}/cpu_capacity").write_text(part)
                else:
                    (tmp_path / "cpu_core").mkdir()
                    (tmp_path / "cpu_core/cpus").write_text(part + "\n")
        monkeypatch.setattr(module, "_SYSTEM", tmp_path)
        count = len(siblings) if usable is None else usable
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(count)), raising=False)
        return default_threads()

    return threads


def test_hyper_threads_count_once(machine: Machine) -> None:
    assert machine(["0,2", "1,3", "0,2", "1,3"]) == 2


def test_only_performance_cores_count_on_intel(machine: Machine) -> None:
    """Alder Lake: two performance cores with hyper-threads, four efficiency cores."""
    assert machine(["0-1", "0-1", "2-3", "2-3", "4", "5", "6", "7"], core="0-3") == 2


def test_only_fast_cores_count_on_arm(machine: Machine) -> None:
    assert machine([str(i) for i in range(6)], capacity="400|400|1024|1024|1000|400") == 3


def test_a_process_that_may_use_slow_cores_alone_uses_them(machine: Machine) -> None:
    assert machine(["0", "1", "2", "3"], usable=2, core="2-3") == 2


def test_a_system_that_tells_nothing_has_as_many_as_cpus(machine: Machine) -> None:
    assert machine([], usable=3) == 3


@pytest.mark.parametrize(
    ("cores", "logical", "affinity", "threads"),
    [(4, 8, range(8), 4), (4, 8, range(2), 2), (None, 6, range(6), 6), (4, 8, None, 4)],
    ids=["Windows", "two CPUs only", "cores not told", "an older macOS"],
)
def test_where_no_files_tell_of_cpus_psutil_counts_the_cores(
    monkeypatch: pytest.MonkeyPatch,
    cores: int | None,
    logical: int,
    affinity: range | None,
    threads: int,
) -> None:
    def process() -> SimpleNamespace:
        there = {} if affinity is None else {"cpu_affinity": lambda: list(affinity)}
        return SimpleNamespace(**there)

    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(psutil, "Process", process)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: n_logical if logical else cores)
    n_logical = logical
    assert default_threads() == threads


class Passes:
    """A machine on which passes take so long, by the number of threads that make them.

    ``free`` are the cores that other programs leave to us, None where the system tells nothing.
    """

    def __init__(self, count: int, free: float | None = None) -> None:
        self.free, self.clock = free, 0.0
        self.choice = ThreadChoice(count, lambda _: self.free)

    def go_on(self, seconds: float, **takes: float) -> dict[int, float]:
        """Let time go by; returns how much of it each number of threads had."""
        spent = dict.fromkeys(range(1, 9), 0.0)
        end = self.clock + seconds
        while self.clock < end:
            threads = self.choice.threads
            took = takes[f"t{threads}"]
            self.clock += took
            spent[threads] += took
            self.choice.record(took, self.clock)
        return spent


UNDISTURBED = {"t2": 0.003, "t1": 0.005}
DISTURBED = {"t2": 0.008, "t1": 0.005}


def test_a_team_that_is_not_disturbed_stays_together() -> None:
    assert Passes(2).go_on(2, **UNDISTURBED)[1] < 0.011  # one attempt, of two passes: both slow


def test_one_thread_goes_on_where_the_team_was_disturbed_from_the_beginning() -> None:
    assert Passes(2).go_on(2, t2=0.03, t1=0.005)[1] > 1.6


def test_one_thread_goes_on_while_a_core_is_taken_and_the_team_is_back_soon() -> None:
    machine = Passes(2)
    machine.go_on(1, **UNDISTURBED)
    assert machine.go_on(5, **DISTURBED)[1] > 4.6
    assert machine.go_on(5, **UNDISTURBED)[1] < 0.8  # back within a second


def test_a_team_that_is_slower_than_it_was_but_quicker_than_one_stays() -> None:
    machine = Passes(2)
    machine.go_on(1, t2=0.003, t1=0.009)
    assert machine.go_on(2, t2=0.006, t1=0.009)[1] < 0.06  # two attempts


def test_a_thread_that_comes_late_to_the_first_pass_after_its_sleep_is_not_given_up() -> None:
    choice, clock = ThreadChoice(2, lambda _: None), 0.0
    for takes in (DISTURBED, UNDISTURBED):
        end, before, shared = clock + 3, choice.threads, 0.0
        while clock < end:
            seconds = takes[f"t{choice.threads}"]
            if choice.threads > before:
                seconds *= 4
            shared += seconds if choice.threads == 2 else 0
            before = choice.threads
            clock += seconds
            choice.record(seconds, clock)
    assert shared > 2.4


def test_attempts_take_a_tenth_of_the_time_where_the_team_takes_for_ever() -> None:
    assert Passes(2).go_on(20, t2=1.0, t1=0.005)[1] > 17


def test_an_attempt_ends_with_a_pass_that_takes_ten_times_as_long() -> None:
    assert Passes(2).go_on(10, t2=1.0, t1=0.005)[2] < 2.5  # the first pass, and one attempt


def test_of_many_threads_one_is_left_out_for_one_core_that_is_taken() -> None:
    machine = Passes(8)
    alone = {"t4": 0.006, "t1": 0.020}
    machine.go_on(1, t8=0.0030, t7=0.0034, **alone)
    assert machine.go_on(5, t8=0.0070, t7=0.0034, **alone)[7] > 4.4
    assert machine.go_on(5, t8=0.0030, t7=0.0034, **alone)[8] > 4.2
    # Half of the cores are taken, and free again.
    assert machine.go_on(5, t8=0.0090, t7=0.0085, **alone)[4] > 3.8
    assert machine.go_on(5, t8=0.0030, t7=0.0034, **alone)[8] > 3.5


def test_more_threads_are_hardly_tried_while_the_system_says_that_others_take_the_core() -> None:
    machine = Passes(2, free=1.1)
    machine.go_on(1, **UNDISTURBED)
    assert machine.go_on(10, **DISTURBED)[2] < 0.12  # six attempts, and what was before the first
    assert 0.02 < machine.go_on(5, **DISTURBED)[2] < 0.05  # still some: the system may be wrong


def test_all_threads_are_back_in_a_moment_once_others_leave_the_core() -> None:
    machine = Passes(2, free=1.0)
    machine.go_on(1, **UNDISTURBED)
    for more in 0.3, 0.7, 1.1, 1.5, 1.9:  # wherever in its pauses it is
        machine.go_on(3 + more, **DISTURBED)
        machine.free = 1.6  # of the time since the last look the neighbour had some yet
        assert machine.go_on(2, **UNDISTURBED)[1] < 0.2
        machine.free = 1.0


def test_all_threads_are_back_after_two_seconds_where_the_system_is_wrong() -> None:
    """A neighbour that gives way to others takes the core that one thread leaves free."""
    machine = Passes(2, free=1.0)
    machine.go_on(1, **UNDISTURBED)
    machine.go_on(5, **DISTURBED)
    assert machine.go_on(5, **UNDISTURBED)[1] < 2.2


def test_attempts_take_a_hundredth_of_the_time_where_no_core_is_free_and_passes_are_long() -> None:
    machine = Passes(2, free=1.0)
    machine.go_on(10, t2=1.0, t1=0.005)
    assert machine.go_on(1000, t2=1.0, t1=0.005)[2] < 12


def test_on_a_machine_with_idle_cores_besides_all_is_as_where_the_system_tells_nothing() -> None:
    spent = [
        [machine.go_on(3, **takes) for takes in (UNDISTURBED, DISTURBED, UNDISTURBED)]
        for machine in (Passes(2, free=7.0), Passes(2, free=None))
    ]
    assert spent[0] == spent[1]
    assert spent[0][1][2] > 0.1  # attempts that fail


def test_fewer_threads_yet_are_tried_though_no_core_is_free_for_more() -> None:
    machine = Passes(8, free=7.0)
    alone = {"t4": 0.006, "t1": 0.020}
    machine.go_on(1, t8=0.0030, t7=0.0034, **alone)
    assert machine.go_on(0.5, t8=0.0070, t7=0.0034, **alone)[7] > 0.4
    machine.free = 4.0
    assert machine.go_on(2, t8=0.0090, t7=0.0085, **alone)[4] > 1.5
    machine.free = 8.0
    assert machine.go_on(5, t8=0.0030, t7=0.0034, **alone)[8] > 3.5


def test_the_system_is_not_asked_while_all_threads_make_passes() -> None:
    asked = []
    choice, clock = ThreadChoice(2, asked.append), 0.0
    for _ in range(1000):
        clock += (took := UNDISTURBED[f"t{choice.threads}"])
        choice.record(took, clock)
    assert not asked


def test_one_thread_is_all_that_one_can_choose() -> None:
    assert Passes(1).go_on(1, t1=0.005)[1] >= 1
