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
    """A machine on which passes take so long, by the number of threads that make them."""

    def __init__(self, count: int) -> None:
        self.choice, self.clock = ThreadChoice(count), 0.0

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
    assert Passes(2).go_on(2, **UNDISTURBED)[1] < 0.02  # one attempt


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
    choice, clock = ThreadChoice(2), 0.0
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


def test_of_many_threads_one_is_left_out_for_one_core_that_is_taken() -> None:
    machine = Passes(8)
    alone = {"t4": 0.006, "t1": 0.020}
    machine.go_on(1, t8=0.0030, t7=0.0034, **alone)
    assert machine.go_on(5, t8=0.0070, t7=0.0034, **alone)[7] > 4.4
    assert machine.go_on(5, t8=0.0030, t7=0.0034, **alone)[8] > 4.2
    # Half of the cores are taken, and free again.
    assert machine.go_on(5, t8=0.0090, t7=0.0085, **alone)[4] > 3.8
    assert machine.go_on(5, t8=0.0030, t7=0.0034, **alone)[8] > 3.5


def test_one_thread_is_all_that_one_can_choose() -> None:
    assert Passes(1).go_on(1, t1=0.005)[1] >= 1
