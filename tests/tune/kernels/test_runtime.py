from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from laplm.tune.kernels import runtime


@pytest.fixture(params=["torch's threads", "ours"])
def team(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Five threads, of torch's OpenMP where it is GNU's, or of our own."""
    if request.param == "ours":
        monkeypatch.setattr(runtime, "_openmp", lambda: None)
    elif runtime._openmp() is None:
        pytest.skip("torch has another OpenMP here")
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
def test_every_part_is_done_once(team: None, threads: int) -> None:
    done: list[int] = []
    runtime.parallel_for(done.append, threads)
    assert sorted(done) == list(range(max(1, threads)))


def test_parts_are_done_at_the_same_time(team: None) -> None:
    all_here = threading.Barrier(5)
    runtime.parallel_for(lambda _: all_here.wait(timeout=20), 5)  # one alone would wait in vain


def test_an_error_in_any_part_is_raised_here(team: None) -> None:
    for bad in range(5):

        def work(i: int, bad: int = bad) -> None:
            if i == bad:
                raise ValueError(f"part {i}")

        with pytest.raises(ValueError, match=f"part {bad}"):
            runtime.parallel_for(work, 5)
    torch.ones(1 << 20).add_(1)  # torch's threads go on as before
