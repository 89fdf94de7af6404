"""How many threads there are, and what they make of a machine that others use as well."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

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


def passes(choice: ThreadChoice, clock: float, until: float, team: float, one: float) -> float:
    """Let time go by on a machine where passes take so long; returns the seconds spent alone."""
    alone = 0.0
    while clock < until:
        seconds = one if choice.alone else team
        alone += seconds if choice.alone else 0
        clock += seconds
        choice.record(seconds, clock)
    return alone


def test_a_team_that_is_not_disturbed_stays_together() -> None:
    assert passes(ThreadChoice(), 0, 2, team=0.003, one=0.005) < 0.02  # one attempt


def test_one_thread_goes_on_where_the_team_was_disturbed_from_the_beginning() -> None:
    assert passes(ThreadChoice(), 0, 2, team=0.03, one=0.005) > 0.8


def test_one_thread_goes_on_while_a_core_is_taken_and_the_team_is_back_soon() -> None:
    choice = ThreadChoice()
    passes(choice, 0, 1, team=0.003, one=0.005)
    assert passes(choice, 1, 3, team=0.008, one=0.005) > 1.6  # of two seconds
    assert passes(choice, 3, 5, team=0.003, one=0.005) < 0.4


def test_a_team_that_is_slower_than_it_was_but_quicker_than_one_stays() -> None:
    choice = ThreadChoice()
    passes(choice, 0, 1, team=0.003, one=0.009)
    assert passes(choice, 1, 3, team=0.006, one=0.009) < 0.45  # attempts


def test_attempts_take_a_tenth_of_the_time_where_the_team_takes_for_ever() -> None:
    assert passes(ThreadChoice(), 0, 20, team=1.0, one=0.005) > 17
