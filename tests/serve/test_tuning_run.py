"""One run as a server knows it: its curves, and what its process complained of."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from laplm.serve.tuning_run import POINTS, Run, append_point


def test_a_curve_keeps_its_ends_and_no_more_points_than_it_may() -> None:
    curve: list[tuple[int, float]] = []
    for step in range(3 * POINTS):
        append_point(curve, step, float(step))
        assert len(curve) <= POINTS
    assert curve[-1] == (3 * POINTS - 1, 3.0 * POINTS - 1)
    assert curve[0][0] <= 2
    assert [step for step, _ in curve] == sorted(step for step, _ in curve)
    assert len(curve) > POINTS / 3
    assert all(value == step for step, value in curve)


def test_steps_that_come_again_take_the_place_of_those_before() -> None:
    curve = [(1, 5.0), (2, 4.0), (3, 3.0)]
    append_point(curve, 2, 9.0)
    assert curve == [(1, 5.0), (2, 9.0)]


def test_a_run_says_what_its_process_complained_of_last(tmp_path: Path) -> None:
    run = Run(tmp_path, {})
    assert run.last_stderr_line() == ""
    assert run.with_last_stderr_line("it ended") == "it ended"
    run.log.write_text("x" * 20_000 + "\nlaplm: no room\n\n  \n")
    assert run.last_stderr_line() == "no room"
    assert run.with_last_stderr_line("it ended") == "it ended. The last that it said: no room"


@pytest.mark.skipif(sys.platform == "win32", reason="no process can be asked there")
def test_what_works_on_it_elsewhere_is_asked_to_stop(tmp_path: Path) -> None:
    run = Run(tmp_path, {"state": "running", "name": "a.txt", "model": "m"})
    assert run.is_elsewhere
    assert not run.stop_elsewhere(), "nobody is known"
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"]) as process:
        run.record["pid"] = process.pid
        assert run.stop_elsewhere()
        assert process.wait(60) == -signal.SIGTERM
