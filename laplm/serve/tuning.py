"""``/api/tune``: runs of ``laplm tune`` as processes, watched, stopped, gone on with, kept.

A run lives in a directory of its own: ``entry.json`` (what was asked for, and how it stands), its
data, ``log`` (what its process complained of), and ``model/``, which is what ``laplm tune --out``
makes. All else is read from there, so a server that was ended knows its runs when it is back: one
that was being planned is planned again, one that was stopped can go on, and one that trained when
the server was killed has failed, and can go on too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import secrets
import shutil
import signal
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from laplm import home
from laplm.bounds import TUNING
from laplm.errors import CacheError
from laplm.home import json_text, write_whole
from laplm.machine import terminate_process
from laplm.serve.logs import log, log_exception
from laplm.serve.models import ModelRegistry
from laplm.serve.parameters import JsonInteger
from laplm.serve.problems import BODY, ApiError, JsonResponse, error_responses, response_content
from laplm.serve.streams import EventStream, event

# A process group of its own: Ctrl-C at the terminal is the server's to hand on.
_OF_ITS_OWN: dict[str, Any] = {"start_new_session": True}
if sys.platform == "win32":
    import subprocess

    _OF_ITS_OWN = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
_BUSY = ("planning", "running", "stopping")
_FINAL = ("done", "failed", "stopped")
_INTERRUPTED = 130  # of a run that was asked to stop, and has kept everything
_POINTS = 2000  # of a curve, at most; beyond that every other one is dropped
_MOST_PLANS = 8
_ROOM = 1 << 16  # bytes; with less, the disk counts as full
_ENDED = "the server was ended while this run was training; it can go on"
_LAST = 8 << 10  # bytes in which the last line of a log must lie
_LINE = 8 << 20  # bytes of a line that a run tells: its plan has a whole window of text in it
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'self'; sandbox"
)
# ServingSettings that the command calls otherwise.
_OPTIONS = {"positions": "window"}


def _bounded(name: str) -> Any:
    """A setting that may be left out, within the bounds that ``laplm tune`` has for it."""
    bounds = TUNING[name]
    low, high = "gt" if bounds.above else "ge", "lt" if bounds.below else "le"
    limits: dict[str, Any] = {low: bounds.least, high: bounds.most}
    return Field(None, description=bounds.words, **limits)


class TuneSettings(BaseModel):
    """How a model is tuned: the options of ``laplm tune``; what is left out is its default."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")

    method: Literal["full", "lora"] | None = None
    epochs: float | None = _bounded("epochs")
    max_steps: JsonInteger | None = _bounded("max_steps")
    batch_size: JsonInteger | None = _bounded("batch_size")
    grad_accum_steps: JsonInteger | None = _bounded("grad_accum_steps")
    positions: JsonInteger | None = _bounded("n_positions")
    learning_rate: float | None = _bounded("learning_rate")
    dropout: float | None = _bounded("dropout")
    patience: JsonInteger | None = _bounded("patience")
    seed: JsonInteger | None = _bounded("seed")
    checkpointing: bool | None = None
    heldout: float | None = _bounded("heldout")
    column: str | None = Field(None, min_length=1, max_length=300)
    train_on_prompt: bool | None = None
    skip_bad: bool | None = None
    rank: JsonInteger | None = _bounded("rank")
    alpha: float | None = _bounded("alpha")
    lora_dropout: float | None = _bounded("lora_dropout")
    threads: JsonInteger | None = _bounded("threads")

    def words(self) -> list[str]:
        """The same on a command line."""
        words = []
        for name, value in self.model_dump(exclude_none=True).items():
            option = f"--{_OPTIONS.get(name, name).replace('_', '-')}"
            if value is not False:
                words.append(option if value is True else f"{option}={value}")
        return words


class TuneRequest(BaseModel):
    """``POST /api/tune``."""

    model_config = ConfigDict(strict=True)

    name: str = Field(min_length=1, max_length=300)
    content: str = Field(min_length=1)
    model: str | None = Field(None, max_length=300)
    settings: TuneSettings | None = None


class Run:
    """One tuning, as it stands."""

    def __init__(self, directory: Path, kept: Mapping[str, Any]) -> None:
        """Take up what ``entry.json`` holds, and what its process has measured."""
        self.directory = directory
        self.id = directory.name
        self.kept = {"state": "failed", "message": "", "plan": None, **kept}
        self.losses: list[tuple[int, float]] = []
        self.heldout: list[tuple[int, float]] = []
        self.samples: list[dict[str, Any]] = []
        self.now: dict[str, Any] = {}
        self.result: dict[str, Any] | None = None
        self.process: asyncio.subprocess.Process | None = None
        self.watchers: set[asyncio.Queue[tuple[str, Any] | None]] = set()

    @property
    def state(self) -> str:
        """As the contract of the page names it."""
        return str(self.kept["state"])

    @property
    def model_directory(self) -> Path:
        """Where ``laplm tune`` writes."""
        return self.directory / "model"

    @property
    def log(self) -> Path:
        """What its process wrote to standard error."""
        return self.directory / "log"

    def last_words(self) -> str:
        """The last line that its process complained; empty when there is none."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _LAST))
                lines = log.read().decode("utf-8", errors="replace").split("\n")
        except OSError:
            return ""
        said = [line.strip() for line in lines if line.strip()]
        return said[-1].removeprefix("laplm: ") if said else ""

    def with_last_words(self, message: str) -> str:
        """A message, and what its process said before it was ended."""
        said = self.last_words()
        return f"{message}. The last that it said: {said}" if said else message

    def end_leftover(self) -> None:
        """End a process that has outlived a killed server, lest two write to one directory.

        It ends by itself at the next thing that it tells, for nobody listens any more; but an
        update of a large model takes its time.
        """
        with contextlib.suppress(KeyError, TypeError, ValueError):
            terminate_process(int(self.kept["pid"]), naming=str(self.model_directory))

    def entry(self) -> dict[str, Any]:
        """All of it, as ``GET /api/tune/{id}`` tells it."""
        plan = self.kept["plan"]
        return {
            "id": self.id,
            "name": self.kept["name"],
            "model": self.kept["model"],
            "state": self.state,
            "message": self.kept["message"],
            "created": self.kept["created"],
            "plan": plan,
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
            "settings": self.kept["settings"],
            "result": self.result,
        }

    def tell(self, name: str, what: Any) -> None:
        """Tell whoever watches."""
        for observer in self.watchers:
            observer.put_nowait((name, what))

    def stepped(self, line: Mapping[str, Any]) -> None:
        """An update was made."""
        self.now.update(line)
        if line.get("train_loss") is not None:
            _put(self.losses, line["step"], line["train_loss"])

    def measured(self, step: int, loss: float | None, text: str | None) -> None:
        """The held-out loss was measured, and something written."""
        if loss is not None:
            _put(self.heldout, step, loss)
        if text is not None:
            while self.samples and self.samples[-1]["step"] >= step:
                self.samples.pop()
            self.samples.append({"step": step, "text": text, "heldout_loss": loss})

    def read_back(self) -> None:
        """What was measured, from the run's own files."""
        with contextlib.suppress(OSError, ValueError):
            path = self.model_directory / "run" / "metrics.jsonl"
            for text in path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError, KeyError):  # a line that was cut short
                    line = json.loads(text)
                    if "heldout_loss" in line:
                        self.measured(line["step"], line["heldout_loss"], line.get("sample"))
                    else:
                        self.stepped(line)
        with contextlib.suppress(OSError, ValueError):
            self.result = json.loads((self.model_directory / "summary.json").read_bytes())


def _put(curve: list[tuple[int, float]], step: int, value: float) -> None:
    """Add a point; of a run that was stopped, steps may come again."""
    while curve and curve[-1][0] >= step:
        curve.pop()
    curve.append((step, value))
    if len(curve) > _POINTS:
        del curve[-2::-2]


class Tunings:
    """All runs of a server. Everything but the reading of directories is in the event loop."""

    def __init__(self, directory: Path | None) -> None:
        """Know the runs of earlier servers.

        Args:
            directory: where runs are kept; None takes ``runs`` in LAPLM_HOME.

        Raises:
            CacheError: it cannot be made.
        """
        if directory is not None:
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise home.cannot_write(directory, error) from None
        self._directory = (directory or home.directory("runs")).resolve()
        self._runs: dict[str, Run] = {}
        self._planning = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = False
        self._starting: str | None = None  # the run that trains, or is about to
        for path in sorted(self._directory.iterdir()):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                kept = json.loads((path / "entry.json").read_bytes())
                run = Run(path, kept)
                run.read_back()
                if run.state in _BUSY:
                    run.end_leftover()
                if run.state == "running":  # the server was killed
                    run.kept |= {"state": "failed", "message": run.with_last_words(_ENDED)}
                elif run.state == "stopping":
                    run.kept["state"] = "stopped"
                run.entry()  # nothing is missing
                self._runs[run.id] = run

    # --- what there is ---

    def finished(self) -> dict[str, Path]:
        """Runs that are models: id to directory."""
        return {r.id: r.model_directory for r in self._runs.values() if r.state == "done"}

    def entries(self) -> list[dict[str, Any]]:
        """All runs, the last one first."""
        return [run.entry() for run in reversed(self._runs.values())]

    def get(self, id_: str) -> Run:
        """A run.

        Raises:
            ApiError: there is none of this id.
        """
        run = self._runs.get(id_)
        if run is None:
            raise ApiError(404, f"there is no run {id_!r}; GET /api/tune lists them", param="id")
        return run

    # --- what is done with them ---

    def begin(self) -> None:
        """Plan what an earlier server was planning when it ended. In the event loop."""
        for run in self._runs.values():
            if run.state == "planning":
                self._spawn(self._plan(run))

    async def create(self, body: TuneRequest, target: str, model: str) -> Run:
        """Keep the data, and begin to plan.

        Raises:
            ApiError: too many are being planned.
            CacheError: the disk is full or cannot be written.
        """
        plans = sum(run.state == "planning" for run in self._runs.values())
        if plans >= _MOST_PLANS:
            raise ApiError(
                429,
                f"{plans} runs are being planned already; try again soon",
                code="queue_full",
                headers={"Retry-After": "5"},
            )
        settings = body.settings or TuneSettings.model_validate({})
        suffix = re.search(r"\.[A-Za-z]{1,8}$", body.name)
        id_ = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        kept = {
            "name": body.name,
            "model": model,
            "target": target,
            "data": f"data{suffix[0].lower() if suffix else ''}",
            "settings": settings.model_dump(exclude_none=True),
            "words": settings.words(),
            "created": time.time(),
            "state": "planning",
        }
        run = Run(self._directory / id_, kept)
        await asyncio.to_thread(self._write_data, run, body.content)
        self._runs[id_] = run
        self._spawn(self._plan(run))
        return run

    def start(self, run: Run) -> None:
        """Train, or go on.

        Raises:
            ApiError: it is not at rest, is done, or another one trains.
        """
        if run.state not in ("planned", "stopped", "failed"):
            raise ApiError(409, f"this run is {run.state}; it cannot be started")
        if run.state == "failed" and run.kept["plan"] is None:
            raise ApiError(409, "this run could not be planned; correct its data or settings")
        if self._starting is not None:
            raise ApiError(
                409,
                f"run {self._starting} is training; wait for its end, or stop it",
                code="busy",
            )
        self._starting = run.id
        self._set(run, "running")
        self._spawn(self._train(run))

    def stop(self, run: Run) -> None:
        """Let it end the update in hand and write a checkpoint.

        Raises:
            ApiError: it does not train.
        """
        if run.state not in ("running", "stopping"):
            raise ApiError(409, f"this run is {run.state}; there is nothing to stop")
        if run.state == "running":
            self._set(run, "stopping")
            _terminate(run)

    async def delete(self, run: Run) -> None:
        """Take it and all that it made away.

        Raises:
            ApiError: it is on its way.
        """
        if run.state in _BUSY:
            raise ApiError(409, f"this run is {run.state}; stop it first")
        del self._runs[run.id]
        for observer in run.watchers:
            observer.put_nowait(None)
        await asyncio.to_thread(shutil.rmtree, run.directory, True)

    def end_streams(self) -> None:
        """Let nobody wait for news any more, stop what trains, and begin nothing."""
        self._ended = True
        for run in self._runs.values():
            for observer in run.watchers:
                observer.put_nowait(None)
            if run.process is not None:
                if run.state == "running":
                    self._set(run, "stopping")
                _terminate(run)

    async def join(self, seconds: float) -> None:
        """Wait for the processes; one that does not end is ended."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        for run in self._runs.values():
            if run.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    run.process.kill()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)

    async def events(self, run: Run) -> AsyncGenerator[bytes]:
        """The whole entry, then what happens, until a final state."""
        observer: asyncio.Queue[tuple[str, Any] | None] = asyncio.Queue()
        run.watchers.add(observer)
        try:
            yield event(run.entry(), "state")
            while run.state not in _FINAL or not observer.empty():
                news = await observer.get()
                if news is None:
                    return
                yield event(news[1], news[0])
        finally:
            run.watchers.discard(observer)

    # --- processes ---

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _plan(self, run: Run) -> None:
        async with self._planning:
            code, said = await self._call(run, [*self._new(run), "--dry-run"])
        if self._ended:  # it is planned when the server is back
            return
        if code == 0 and run.kept["plan"] is not None:
            self._set(run, "planned")
        else:
            self._set(run, "failed", said)

    async def _train(self, run: Run) -> None:
        begun = (run.model_directory / "run.json").exists()
        words = [f"--resume={run.model_directory}"] if begun else self._new(run)
        try:
            code, said = await self._call(run, words)
        finally:
            self._starting = None
        if code == 0:
            self._set(run, "done")
        elif run.state == "stopping" or code == _INTERRUPTED:
            self._set(run, "stopped")
        else:
            self._set(run, "failed", said)

    def _new(self, run: Run) -> list[str]:
        data, out = run.directory / run.kept["data"], run.model_directory
        return [str(data), f"--out={out}", f"--model={run.kept['target']}", *run.kept["words"]]

    async def _call(self, run: Run, words: list[str]) -> tuple[int, str]:
        """Run ``laplm tune`` to its end: its exit status, and the last line that it complained."""
        command = [sys.executable, "-m", "laplm", "tune", *words, "--json"]
        if self._ended:
            return 1, _ENDED
        try:
            # What it complains of goes to a file, which outlives both. In a session of its own: a
            # Ctrl-C at the terminal is the server's to hand on.
            with run.log.open("wb") as complaints:
                run.process = process = await asyncio.create_subprocess_exec(
                    *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                    stderr=complaints, limit=_LINE, **_OF_ITS_OWN,
                )  # fmt: skip
            run.kept["pid"] = process.pid
            self._keep(run)
            if run.state == "stopping":  # while it was being started
                _terminate(run)
            assert process.stdout is not None
            while line := await process.stdout.readline():
                self._heard(run, line)
            code = await process.wait()
        except OSError as error:
            return 1, f"the tuning could not be started ({home.reason_of(error)})"
        except Exception as error:
            log_exception("tuning", error, run=run.id)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            return 1, "the tuning was ended by an internal error; the server's log says more"
        finally:
            run.process = None
        if code < 0:  # what it wrote last is no reason
            said = run.with_last_words(
                f"the tuning was ended from outside (signal {-code}); it can go on"
            )
        else:
            said = run.last_words() or _silent_end(run, code)
        log("tuning ended", run=run.id, status=code)
        # By the name that its owner gave it, and not by that of our own copy.
        return code, said.replace(str(run.directory / run.kept["data"]), run.kept["name"])

    def _heard(self, run: Run, told: bytes) -> None:
        try:
            line = json.loads(told)
            kind = line.pop("event")
        except (ValueError, KeyError, AttributeError):
            return
        if kind == "plan":
            if run.kept["plan"] is None or line["seconds_per_step"] is not None:
                run.kept["plan"] = line
        elif kind == "step":
            run.stepped(line)
            line.pop("heldout_loss", None)
            run.tell("step", line)
        elif kind == "eval":
            run.measured(line["step"], line["heldout_loss"], line["text"])
            run.tell("eval", line)
        elif kind == "done":
            run.result = line

    def _set(self, run: Run, state: str, message: str = "") -> None:
        run.kept |= {"state": state, "message": message}
        self._keep(run)
        run.tell("state", run.entry())

    def _keep(self, run: Run) -> None:
        """Write the entry, if that can be; on a full disk the run itself says so."""
        try:
            self._write_entry(run)
        except CacheError as error:
            log("run not kept", logging.ERROR, run=run.id, reason=str(error))
        except Exception as error:
            log_exception("run not kept", error, run=run.id)

    def _write_entry(self, run: Run) -> None:
        write_whole(run.directory / "entry.json", json_text(run.kept, indent=2).encode())

    def _write_data(self, run: Run, content: str) -> None:
        try:
            run.directory.mkdir()
        except OSError as error:
            raise home.cannot_write(run.directory, error) from None
        data = content.encode("utf-8", errors="replace")  # half of a character is no text
        try:
            write_whole(run.directory / run.kept["data"], data)
            self._write_entry(run)
        except CacheError:
            shutil.rmtree(run.directory, ignore_errors=True)
            raise


def _silent_end(run: Run, code: int) -> str:
    """Why a process ended that could not write down a reason."""
    with contextlib.suppress(OSError):
        if code != 0 and shutil.disk_usage(run.directory).free < _ROOM:
            return f"no space left in {run.directory.parent}: free some, then start it again"
    return f"the tuning ended with status {code}"


def _terminate(run: Run) -> None:
    if run.process is None:
        return
    with contextlib.suppress(ProcessLookupError):
        if sys.platform == "win32":  # there terminate() strikes at once, and nothing is kept
            run.process.send_signal(signal.CTRL_BREAK_EVENT)
        else:
            run.process.terminate()


def router(registry: ModelRegistry, tunings: Tunings) -> APIRouter:
    """The routes."""
    api = APIRouter(prefix="/api/tune", tags=["teaching"])

    @api.get("")
    async def runs() -> Response:
        """All runs, the last one first."""
        return JsonResponse({"runs": tunings.entries()})

    @api.post("", status_code=201, responses=error_responses(*BODY, 404, 429))
    async def create(body: TuneRequest) -> Response:
        """Keep the data and plan a run."""
        name = body.model or registry.default
        run = await tunings.create(body, await registry.target(name), name)
        return JsonResponse(run.entry(), 201)

    @api.get("/{id}", responses=error_responses(404))
    async def one(id: str) -> Response:
        """One run."""
        return JsonResponse(tunings.get(id).entry())

    @api.delete("/{id}", responses=error_responses(404, 409))
    async def delete(id: str) -> Response:
        """Take a run away, with the model that it made."""
        run = tunings.get(id)
        await tunings.delete(run)
        registry.forget(f"run:{id}")
        return JsonResponse({"id": id, "deleted": True})

    @api.post("/{id}/start", responses=error_responses(404, 409))
    async def start(id: str) -> Response:
        """Train; one that was stopped or has failed goes on from its last checkpoint."""
        run = tunings.get(id)
        tunings.start(run)
        return JsonResponse(run.entry())

    @api.post("/{id}/stop", responses=error_responses(404, 409))
    async def stop(id: str) -> Response:
        """Stop at the next update; everything is kept."""
        run = tunings.get(id)
        tunings.stop(run)
        return JsonResponse(run.entry())

    @api.get(
        "/{id}/events",
        response_class=Response,
        responses=response_content("text/event-stream") | error_responses(404),
    )
    async def events(id: str) -> Response:
        """What happens, as server-sent events: state, step, eval."""
        return EventStream(tunings.events(tunings.get(id)), contextlib.AsyncExitStack())

    @api.get(
        "/{id}/report",
        response_class=Response,
        responses=response_content("text/html") | error_responses(404),
    )
    async def report(id: str) -> Response:
        """What the tuning changed, as a page."""
        path = tunings.get(id).model_directory / "report.html"
        try:
            content = await asyncio.to_thread(path.read_bytes)
        except OSError:
            raise ApiError(404, "this run has no report yet; it is written at its end") from None
        headers = {"Content-Security-Policy": _REPORT_POLICY}
        return Response(content, media_type="text/html", headers=headers)

    return api
