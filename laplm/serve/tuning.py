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
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, create_model
from starlette.responses import Response

from laplm import home, tune_config
from laplm.bounds import TUNING
from laplm.errors import WriteError
from laplm.files import json_text, reason_of, write_error, write_file
from laplm.machine import terminate_process
from laplm.metrics import METRICS, read_metrics
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
_HTTP = {setting.http: setting for _, setting in tune_config.settings() if setting.http is not None}


def _field(setting: tune_config.Setting) -> Any:
    """Type and default of a request's field, which may be left out."""
    kind: Any = JsonInteger if setting.kind is int else setting.kind
    more: dict[str, Any] = {}
    # Of a percentage the bounds are those of the number that people give.
    bounds = TUNING[setting.name] if setting.percent else setting.bounds
    if bounds is not None:
        low, high = (
            "gt" if bounds.exclusive_minimum else "ge",
            "lt" if bounds.exclusive_maximum else "le",
        )
        more = {low: bounds.minimum, high: bounds.maximum, "description": bounds.description}
    elif setting.choices:
        kind = Literal[setting.choices]
    elif kind is str:
        more = {"min_length": 1, "max_length": 300}
    return kind | None, Field(None, **more)


class _Settings(BaseModel):
    """How a model is fine-tuned: the options of ``laplm tune``; what is left out is its default."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")

    def argv(self) -> list[str]:
        """The same on a command line."""
        argv = []
        for name, value in self.model_dump(exclude_none=True).items():
            option = f"--{_HTTP[name].dest.replace('_', '-')}"
            if value is not False:
                argv.append(option if value is True else f"{option}={value}")
        return argv


if TYPE_CHECKING:
    TuneSettings = _Settings
else:
    TuneSettings = create_model(
        "TuneSettings", __base__=_Settings, __doc__=_Settings.__doc__,
        **{name: _field(setting) for name, setting in _HTTP.items()},
    )  # fmt: skip


class TuneRequest(BaseModel):
    """``POST /api/tune``."""

    model_config = ConfigDict(strict=True)

    name: str = Field(min_length=1, max_length=300)
    content: str = Field(min_length=1)
    model: str | None = Field(None, max_length=300)
    settings: TuneSettings | None = None


class Run:
    """One tuning, as it stands."""

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
        self.process: asyncio.subprocess.Process | None = None
        self.watchers: set[asyncio.Queue[tuple[str, Any] | None]] = set()

    @property
    def state(self) -> str:
        """As the contract of the page names it."""
        return str(self.record["state"])

    @property
    def model_directory(self) -> Path:
        """Where ``laplm tune`` writes."""
        return self.directory / "model"

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

    def entry(self) -> dict[str, Any]:
        """All of it, as ``GET /api/tune/{id}`` tells it."""
        plan = self.record["plan"]
        return {
            "id": self.id,
            "name": self.record["name"],
            "model": self.record["model"],
            "state": self.state,
            "message": self.record["message"],
            "created": self.record["created"],
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
            _append_point(self.losses, line["step"], line["train_loss"])

    def on_eval(self, step: int, loss: float | None, text: str | None) -> None:
        """Take up an evaluation, and what was generated then."""
        if loss is not None:
            _append_point(self.heldout, step, loss)
        if text is not None:
            while self.samples and self.samples[-1]["step"] >= step:
                self.samples.pop()
            self.samples.append({"step": step, "text": text, "heldout_loss": loss})

    def read_metrics_file(self) -> None:
        """What was measured, from the run's own files."""
        with contextlib.suppress(OSError, ValueError):
            for line in read_metrics(self.model_directory / METRICS, skip_damaged=True):
                with contextlib.suppress(KeyError):
                    if "heldout_loss" in line:
                        self.on_eval(line["step"], line["heldout_loss"], line.get("sample"))
                    else:
                        self.on_step(line)
        with contextlib.suppress(OSError, ValueError):
            self.result = json.loads((self.model_directory / "summary.json").read_bytes())


def _append_point(curve: list[tuple[int, float]], step: int, value: float) -> None:
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
            WriteError: it cannot be made.
        """
        if directory is not None:
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise write_error(directory, error) from None
        self._directory = (directory or home.directory("runs")).resolve()
        self._runs: dict[str, Run] = {}
        self._planning = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = False
        self._starting: str | None = None  # the run that trains, or is about to
        for path in sorted(self._directory.iterdir()):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                record = json.loads((path / "entry.json").read_bytes())
                run = Run(path, record)
                run.read_metrics_file()
                if run.state in _BUSY:
                    run.end_leftover()
                if run.state == "running":  # the server was killed
                    run.record |= {"state": "failed", "message": run.with_last_stderr_line(_ENDED)}
                elif run.state == "stopping":
                    run.record["state"] = "stopped"
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
            WriteError: the disk is full or cannot be written.
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
        record = {
            "name": body.name,
            "model": model,
            "target": target,
            "data": f"data{suffix[0].lower() if suffix else ''}",
            "settings": settings.model_dump(exclude_none=True),
            "argv": settings.argv(),
            "created": time.time(),
            "state": "planning",
        }
        run = Run(self._directory / id_, record)
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
        if run.state == "failed" and run.record["plan"] is None:
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
        """Let it end the step in hand and write a checkpoint.

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
        if code == 0 and run.record["plan"] is not None:
            self._set(run, "planned")
        else:
            self._set(run, "failed", said)

    async def _train(self, run: Run) -> None:
        begun = (run.model_directory / "run.json").exists()
        argv = [f"--resume={run.model_directory}"] if begun else self._new(run)
        try:
            code, said = await self._call(run, argv)
        finally:
            self._starting = None
        if code == 0:
            self._set(run, "done")
        elif run.state == "stopping" or code == _INTERRUPTED:
            self._set(run, "stopped")
        else:
            self._set(run, "failed", said)

    def _new(self, run: Run) -> list[str]:
        data, out = run.directory / run.record["data"], run.model_directory
        return [str(data), f"--out={out}", f"--model={run.record['target']}", *_argv(run.record)]

    async def _call(self, run: Run, argv: list[str]) -> tuple[int, str]:
        """Run ``laplm tune`` to its end: its exit status, and the last line that it complained."""
        command = [sys.executable, "-m", "laplm", "tune", *argv, "--json"]
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
            run.record["pid"] = process.pid
            self._keep(run)
            if run.state == "stopping":  # while it was being started
                _terminate(run)
            assert process.stdout is not None
            while line := await process.stdout.readline():
                self._on_event(run, line)
            code = await process.wait()
        except OSError as error:
            return 1, f"the tuning could not be started ({reason_of(error)})"
        except Exception as error:
            log_exception("tuning", error, run=run.id)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            return 1, "the tuning was ended by an internal error; the server's log says more"
        finally:
            run.process = None
        if code < 0:  # what it wrote last is no reason
            said = run.with_last_stderr_line(
                f"the tuning was ended from outside (signal {-code}); it can go on"
            )
        else:
            said = run.last_stderr_line() or _silent_end(run, code)
        log("tuning ended", run=run.id, status=code)
        # By the name that its owner gave it, and not by that of our own copy.
        return code, said.replace(str(run.directory / run.record["data"]), run.record["name"])

    def _on_event(self, run: Run, told: bytes) -> None:
        try:
            line = json.loads(told)
            kind = line.pop("event")
        except (ValueError, KeyError, AttributeError):
            return
        if kind == "plan":
            if run.record["plan"] is None or line["seconds_per_step"] is not None:
                run.record["plan"] = line
        elif kind == "step":
            run.on_step(line)
            line.pop("heldout_loss", None)
            run.publish("step", line)
        elif kind == "eval":
            run.on_eval(line["step"], line["heldout_loss"], line["text"])
            run.publish("eval", line)
        elif kind == "done":
            run.result = line

    def _set(self, run: Run, state: str, message: str = "") -> None:
        run.record |= {"state": state, "message": message}
        self._keep(run)
        run.publish("state", run.entry())

    def _keep(self, run: Run) -> None:
        """Write the entry, if that can be; on a full disk the run itself says so."""
        try:
            self._write_entry(run)
        except WriteError as error:
            log("run not kept", logging.ERROR, run=run.id, reason=str(error))
        except Exception as error:
            log_exception("run not kept", error, run=run.id)

    def _write_entry(self, run: Run) -> None:
        write_file(run.directory / "entry.json", json_text(run.record, indent=2).encode())

    def _write_data(self, run: Run, content: str) -> None:
        try:
            run.directory.mkdir()
        except OSError as error:
            raise write_error(run.directory, error) from None
        data = content.encode("utf-8", errors="replace")  # half of a character is no text
        try:
            write_file(run.directory / run.record["data"], data)
            self._write_entry(run)
        except WriteError:
            shutil.rmtree(run.directory, ignore_errors=True)
            raise


def _silent_end(run: Run, code: int) -> str:
    """Why a process ended that could not write down a reason."""
    with contextlib.suppress(OSError):
        if code != 0 and shutil.disk_usage(run.directory).free < _ROOM:
            return f"no space left in {run.directory.parent}: free some, then start it again"
    return f"the tuning ended with status {code}"


def _argv(record: Mapping[str, Any]) -> list[str]:
    """The settings of a run on a command line; runs of earlier servers have them as "words"."""
    return list(record["argv"] if "argv" in record else record["words"])


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
    api = APIRouter(prefix="/api/tune", tags=["fine-tuning"])

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
        """Stop at the next step; everything is kept."""
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
