"""Gives inputs to a worker, watches its time and its life, and starts it again when it is gone."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
SECONDS = 10.0  # of computing, for one input; waiting for a busy machine does not count
PATIENCE = 120.0  # seconds on the clock: who waits computes nothing


@dataclass(frozen=True)
class Finding:
    """An input that did what none may do.

    Attributes:
        format: key of ``formats.FORMATS``.
        seed: with the format, all that is needed to make the input again.
        what: what happened.
    """

    format: str
    seed: int
    what: str


class Worker:
    """A process that opens inputs."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "tests.fuzz.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            encoding="utf-8", cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self._answers: queue.Queue[str] = queue.Queue()
        self._said: list[str] = []
        self._warm: set[str] = set()
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._overhear, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def _overhear(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said = [*self._said[-20:], line]

    def try_one(self, name: str, seed: int) -> str:
        """What became of an input: nothing to tell, or a fault. After a fault it may be gone."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{name} {seed}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return self._last_words()
        began, before = time.monotonic(), self._seconds()
        # The first of a kind may load libraries and compile.
        limit = SECONDS if name in self._warm else SECONDS + 60
        while True:
            try:
                answer = self._answers.get(timeout=0.25)
            except queue.Empty:
                computed, waited = self._seconds() - before, time.monotonic() - began
                if computed > limit or waited > PATIENCE + limit:
                    self.end()
                    return f"hangs: {computed:.0f} s of computing, {waited:.0f} s in all"
                continue
            if not answer:
                return self._last_words()
            self._warm.add(name)
            return str(json.loads(answer))

    def _seconds(self) -> float:
        try:
            times = psutil.Process(self._process.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return float(times.user + times.system)

    def _last_words(self) -> str:
        code = self._process.wait(30)
        return f"died with {code}: {' '.join(self._said)[-500:]}"

    @property
    def alive(self) -> bool:
        """Whether it can be given another input."""
        return self._process.poll() is None

    def end(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait(30)


def findings(inputs: Iterable[tuple[str, int]]) -> Iterator[Finding]:
    """Try inputs (format, seed), and yield those that did what none may do."""
    worker = Worker()
    try:
        for name, seed in inputs:
            if not worker.alive:
                worker = Worker()
            what = worker.try_one(name, seed)
            if what:
                yield Finding(name, seed, what)
    finally:
        worker.end()
