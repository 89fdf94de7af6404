"""One run of tuning as a server knows it: what was asked for, what was measured, who watches."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laplm.hub.tuning_runs import BUSY, document_opening, model_directory
from laplm.machine import terminate_process
from laplm.metrics import METRICS, read_metrics

POINTS = 2000  # of a curve, at most; beyond that every other one is dropped
_LAST = 8 << 10  # bytes in which the last line of a log must lie


class Run:
    """One tuning, as it stands.

    Attributes:
        directory: of the run.
        record: what ``entry.json`` holds.
        name: what its model is called; None: it has no name.
        process: of ``laplm tune``, where this server has started it.
        lock: what is given up when this server no longer works on it; None: it does not.
        read_at: when its files changed that were read last.
        watchers: who is told of what happens.
    """

    def __init__(self, directory: Path, record: Mapping[str, Any]) -> None:
        """Take up what ``entry.json`` holds, and what its process has measured."""
        self.directory = directory
        self.id = directory.name
        self.record = {"state": "failed", "message": "", "plan": None, **record}
        self.losses: list[tuple[int, float]] = []
        self.heldout: list[tuple[int, float]] = []
        self.samples: list[dict[str, Any]] = []
        self.now: dict[str, Any] = {}
        self.result: dict[str, Any] | None = None
        self.name: str | None = None
        self.process: asyncio.subprocess.Process | None = None
        self.lock: contextlib.ExitStack | None = None
        self.read_at: tuple[int, ...] = ()
        self.watchers: set[asyncio.Queue[tuple[str, Any] | None]] = set()

    @property
    def state(self) -> str:
        """As the contract of the page names it."""
        return str(self.record["state"])

    @property
    def model_directory(self) -> Path:
        """Where ``laplm tune`` writes."""
        return model_directory(self.directory, self.record)

    @property
    def is_elsewhere(self) -> bool:
        """Whether another process works on it: a command, or another server."""
        return self.state in BUSY and self.lock is None

    @property
    def model_name(self) -> str:
        """What its model is asked for by."""
        return self.name or f"run:{self.id}"

    def release(self) -> None:
        """Let others work on it."""
        if self.lock is not None:
            self.lock.close()
            self.lock = None

    @property
    def log(self) -> Path:
        """What its process wrote to standard error."""
        return self.directory / "log"

    def last_stderr_line(self) -> str:
        """The last line that its process complained; empty when there is none."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _LAST))
                lines = log.read().decode("utf-8", errors="replace").split("\n")
        except OSError:
            return ""
        said = [line.strip() for line in lines if line.strip()]
        return said[-1].removeprefix("laplm: ") if said else ""

    def with_last_stderr_line(self, message: str) -> str:
        """A message, and what its process said before it was ended."""
        said = self.last_stderr_line()
        return f"{message}. The last that it said: {said}" if said else message

    def end_leftover(self) -> None:
        """End a process that has outlived a killed server, lest two write to one directory.

        It ends by itself at the next thing that it tells, for nobody listens any more; but an
        step of a large model takes its time.
        """
        with contextlib.suppress(KeyError, TypeError, ValueError):
            terminate_process(int(self.record["pid"]), naming=str(self.model_directory))

    def stop_elsewhere(self) -> bool:
        """Ask the process of another command or server to stop and keep everything."""
        if sys.platform == "win32":  # there a process can be ended from outside, but not asked
            return False
        try:
            os.kill(int(self.record["pid"]), signal.SIGTERM)
        except (KeyError, TypeError, ValueError, OSError, OverflowError):
            return False
        return True

    def entry(self) -> dict[str, Any]:
        """All of it, as ``GET /api/tune/{id}`` tells it."""
        plan = self.record["plan"]
        opening, asks = document_opening(self.record)
        return {
            "id": self.id,
            "name": self.record["name"],
            "model_name": self.name,
            "model": self.record["model"],
            "elsewhere": self.is_elsewhere,
            "state": self.state,
            "message": self.record["message"],
            "created": self.record["created"],
            "plan": plan,
            "opening": opening,
            "asks": asks,
            "step": self.now.get("step", 0),
            "max_steps": self.now.get("max_steps") or (plan or {}).get("max_steps"),
            "train_loss": self.now.get("train_loss"),
            "heldout_loss": self.heldout[-1][1] if self.heldout else None,
            "learning_rate": self.now.get("learning_rate"),
            "tokens_per_second": self.now.get("tokens_per_second"),
            "seconds": self.now.get("seconds", 0.0),
            "samples": self.samples,
            "losses": self.losses,
            "heldout_losses": self.heldout,
            "directory": str(self.model_directory),
            "settings": self.record["settings"],
            "result": self.result,
        }

    def publish(self, name: str, what: Any) -> None:
        """Tell whoever watches."""
        for observer in self.watchers:
            observer.put_nowait((name, what))

    def on_step(self, line: Mapping[str, Any]) -> None:
        """Take up a step."""
        self.now.update(line)
        if line.get("train_loss") is not None:
            append_point(self.losses, line["step"], line["train_loss"])

    def on_eval(self, step: int, loss: float | None, text: str | None) -> None:
        """Take up an evaluation, and what was generated then."""
        if loss is not None:
            append_point(self.heldout, step, loss)
        if text is not None:
            while self.samples and self.samples[-1]["step"] >= step:
                self.samples.pop()
            self.samples.append({"step": step, "text": text, "heldout_loss": loss})

    def read_metrics_file(self) -> None:
        """What was measured, from the run's own files."""
        self.losses, self.heldout, self.samples, self.now = [], [], [], {}
        with contextlib.suppress(OSError, ValueError):
            for line in read_metrics(self.model_directory / METRICS, skip_damaged=True):
                with contextlib.suppress(KeyError):
                    if "heldout_loss" in line:
                        self.on_eval(line["step"], line["heldout_loss"], line.get("sample"))
                    else:
                        self.on_step(line)
        self.result = None
        with contextlib.suppress(OSError, ValueError):
            self.result = json.loads((self.model_directory / "summary.json").read_bytes())


def append_point(curve: list[tuple[int, float]], step: int, value: float) -> None:
    """Add a point; of a run that was stopped, steps may come again."""
    while curve and curve[-1][0] >= step:
        curve.pop()
    curve.append((step, value))
    if len(curve) > POINTS:
        del curve[-2::-2]
