"""``/api/tune``: runs of ``laplm tune`` as processes, watched, stopped, gone on with, kept.

A run lives in a directory of its own (``hub/tuning_runs.py``): ``entry.json`` (what was asked for,
and how it stands), its data, ``log`` (what its process complained of), and ``model/``, which is
what ``laplm tune --out`` makes. All else is read from there, so a server that was ended knows its
runs when it is back: one that was being planned is planned again, one that was stopped can go on,
and one that trained when the server was killed has failed, and can go on too. Runs that a command
or another server has begun, ended or taken away are seen as they are: who works on one locks it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, create_model
from starlette.responses import Response

from laplm import home, tune_config
from laplm.bounds import TUNING
from laplm.errors import InputError, LaplmError, WriteError
from laplm.files import make_write_error, reason_of, write_file
from laplm.hub import model_names, tuned, tuning_runs
from laplm.hub.tuning_runs import BUSY, TuningRun
from laplm.metrics import METRICS
from laplm.serve.logs import log, log_exception
from laplm.serve.models import ModelRegistry
from laplm.serve.parameters import JsonInteger
from laplm.serve.problems import BODY, ApiError, JsonResponse, error_responses, response_content
from laplm.serve.streams import EventStream, event
from laplm.serve.tuning_run import Run

# A process group of its own: Ctrl-C at the terminal is the server's to hand on.
_OF_ITS_OWN: dict[str, Any] = {"start_new_session": True}
if sys.platform == "win32":
    import subprocess

    _OF_ITS_OWN = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
_FINAL = ("done", "failed", "stopped")
_INTERRUPTED = 130  # of a run that was asked to stop, and has kept everything
_MOST_PLANS = 8
_SCAN_SECONDS = 1.0  # how long what others did to runs may go unseen
_ROOM = 1 << 16  # bytes; with less, the disk counts as full
_ENDED = "the server was ended while this run was training; it can go on"
_LINE = 8 << 20  # bytes of a line that a run tells: its plan has a whole window of text in it
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'; sandbox"
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
    model_name: str | None = Field(None, max_length=300)
    settings: TuneSettings | None = None


class RunName(BaseModel):
    """``PATCH /api/tune/{id}``."""

    model_config = ConfigDict(strict=True)

    model_name: str = Field(min_length=1, max_length=300)


class RunExport(BaseModel):
    """``POST /api/tune/{id}/export``."""

    model_config = ConfigDict(strict=True)

    precision: Literal["f32", "f16", "q8_0"] = "q8_0"


class Tunings:
    """All runs of a server. Everything but the reading of directories is in the event loop."""

    def __init__(self, directory: Path | None, taken: Iterable[str] = ()) -> None:
        """Know the runs of earlier servers.

        Args:
            directory: where runs are kept; None takes ``runs`` in LAPLM_HOME.
            taken: names that results cannot have, for other models have them.

        Raises:
            WriteError: it cannot be made.
        """
        if directory is not None:
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise make_write_error(directory, error) from None
        self._directory = (directory or home.directory(tuning_runs.RUNS)).resolve()
        self._taken = tuple(taken)
        self._runs: dict[str, Run] = {}
        self._planning = asyncio.Lock()
        self._exporting = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._began = self._ended = False
        self._starting: str | None = None  # the run that trains, or is about to
        self._refreshed = -_SCAN_SECONDS
        self.refresh()

    # --- as it is on disk ---

    def refresh(self) -> None:
        """See what others have begun, ended, renamed or taken away."""
        self._refreshed = time.monotonic()
        there = {
            path.name
            for path in tuning_runs.run_directories(self._directory)
            if self._refresh_run(path)
        }
        for id_ in self._runs.keys() - there:
            if self._runs[id_].lock is None:
                for observer in self._runs.pop(id_).watchers:
                    observer.put_nowait(None)
        self._runs = dict(sorted(self._runs.items()))
        runs = list(self._runs.values())
        for run, known in zip(
            runs, tuning_runs.runs_from_entries((r.directory, r.record) for r in runs), strict=True
        ):
            run.name = known.name

    def _refresh_run(self, path: Path) -> bool:
        """Read a run again if its files have changed; whether it is one."""
        run = self._runs.get(path.name)
        try:
            if run is not None and run.lock is not None:
                return True
            changed = [(path / tuning_runs.ENTRY).stat().st_mtime_ns]
            if run is None or run.read_at[:1] != tuple(changed):
                record = tuning_runs.read_entry(path)
                if run is None:
                    run = Run(path, record)
                run.record = {"state": "failed", "message": "", "plan": None, **record}
            with contextlib.suppress(OSError):
                changed.append((run.model_directory / METRICS).stat().st_mtime_ns)
            if run.read_at != tuple(changed):
                run.read_metrics_file()
                run.entry()  # nothing is missing
                run.read_at = tuple(changed)
                run.publish("state", run.entry())
        except (OSError, ValueError, KeyError, TypeError):
            return False
        if "directory" in run.record and run.state in _FINAL and not run.model_directory.is_dir():
            return False  # the person who chose it has deleted it
        self._runs[run.id] = run
        if run.state in BUSY and not tuning_runs.is_locked(path):
            self._take_over(run)
        return True

    def _take_over(self, run: Run) -> None:
        """A run whose command or server was ended."""
        run.end_leftover()
        if run.state == "planning":
            if self._began and not self._ended:
                self._plan_again(run)
            return
        if (run.model_directory / "summary.json").is_file():
            self._set(run, "done")
        elif run.state == "running":
            self._set(run, "failed", run.with_last_stderr_line(_ENDED))
        else:
            self._set(run, "stopped")

    # --- what there is ---

    def finished_runs(self) -> dict[str, TuningRun]:
        """Runs that are models, by their ids."""
        if time.monotonic() - self._refreshed >= _SCAN_SECONDS:
            self.refresh()
        known = (TuningRun(r.directory, r.record, r.name) for r in self._runs.values())
        return {run.id: run for run in known if run.is_done}

    def entries(self) -> list[dict[str, Any]]:
        """All runs, the last one first."""
        self.refresh()
        return [run.entry() for run in reversed(self._runs.values())]

    def get(self, id_: str) -> Run:
        """A run.

        Raises:
            ApiError: there is none of this id.
        """
        self.refresh()
        run = self._runs.get(id_)
        if run is None:
            raise ApiError(404, f"there is no run {id_!r}; GET /api/tune lists them", param="id")
        return run

    # --- what is done with them ---

    def begin(self) -> None:
        """Plan what an earlier server was planning when it ended. In the event loop."""
        self._began = True
        for run in self._runs.values():
            if run.state == "planning" and run.lock is None:
                self._plan_again(run)

    def _plan_again(self, run: Run) -> None:
        with contextlib.suppress(LaplmError):  # another server does
            self._lock_run(run)
            self._spawn(self._plan(run))

    def _lock_run(self, run: Run) -> None:
        """Work on a run, and let nobody else do so until ``run.release()``.

        Raises:
            InputError: somebody does.
            WriteError: nothing can be written there.
        """
        with contextlib.ExitStack() as lock:
            lock.enter_context(tuning_runs.lock_run(run.directory))
            run.lock = lock.pop_all()

    async def create(self, body: TuneRequest, target: str, model: str) -> Run:
        """Keep the data, and begin to plan.

        Raises:
            ApiError: too many are being planned.
            InputError: the name that its model shall have is taken, or cannot be one.
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
        if body.model_name is not None:
            await asyncio.to_thread(
                tuning_runs.check_name_is_free, body.model_name, self._directory, taken=self._taken
            )
        settings = body.settings or TuneSettings.model_validate({})
        suffix = re.search(r"\.[A-Za-z]{1,8}$", body.name)
        record = {
            "name": body.name,
            "model_name": body.model_name,
            "model": model,
            "target": target,
            "data": f"data{suffix[0].lower() if suffix else ''}",
            "settings": settings.model_dump(exclude_none=True),
            "argv": settings.argv(),
            "created": time.time(),
            "state": "planning",
        }
        run = Run(tuning_runs.new_run_directory(self._directory), record)
        await asyncio.to_thread(self._write_data, run, body.content)
        self._runs[run.id] = run
        self._spawn(self._plan(run))
        return run

    def start(self, run: Run) -> None:
        """Train, or go on.

        Raises:
            ApiError: it is not at rest, is done, or another one trains.
        """
        if run.is_elsewhere or run.state not in ("planned", "stopped", "failed"):
            raise ApiError(409, f"this run is {run.state}; it cannot be started")
        if run.state == "failed" and run.record["plan"] is None:
            raise ApiError(409, "this run could not be planned; correct its data or settings")
        if run.record["data"] is None and not (run.model_directory / "run.json").exists():
            raise ApiError(409, "this run was begun by a command, and has not trained; begin again")
        if self._starting is not None:
            raise ApiError(
                409,
                f"run {self._starting} is training; wait for its end, or stop it",
                code="busy",
            )
        try:
            self._lock_run(run)
        except InputError as error:  # it has just begun elsewhere
            raise ApiError(409, str(error)) from None
        self._starting = run.id
        self._set(run, "running")
        self._spawn(self._train(run))

    def stop(self, run: Run) -> None:
        """Let it end the step in hand and write a checkpoint.

        Raises:
            ApiError: it does not train, or cannot be stopped from here.
        """
        if run.state not in ("running", "stopping"):
            raise ApiError(409, f"this run is {run.state}; there is nothing to stop")
        if run.is_elsewhere:
            if not run.stop_elsewhere():
                raise ApiError(409, "this run was started elsewhere; stop it there, with Ctrl-C")
            run.record["state"] = "stopping"
            run.publish("state", run.entry())
        elif run.state == "running":
            self._set(run, "stopping")
            _terminate(run)

    async def delete(self, run: Run) -> None:
        """Take it and all that it made away; of a directory that a person chose, only the entry.

        Raises:
            ApiError: it is on its way.
            WriteError: it cannot be taken away.
        """
        if run.state in BUSY:
            raise ApiError(409, f"this run is {run.state}; stop it first")
        await asyncio.to_thread(tuned.remove, TuningRun(run.directory, run.record, run.name))
        self._runs.pop(run.id, None)
        for observer in run.watchers:
            observer.put_nowait(None)

    def rename(self, run: Run, name: str) -> None:
        """Give its model another name.

        Raises:
            ApiError: another process works on it.
            InputError: the name is taken, or cannot be one.
        """
        if run.is_elsewhere:
            raise ApiError(409, f"this run is {run.state} elsewhere; rename it when that has ended")
        with tuning_runs.lock_names(self._directory):
            run.record["model_name"] = run.name = tuning_runs.check_name_is_free(
                name, self._directory, besides=run.id, taken=self._taken
            )
            self._write_entry(run)
        run.publish("state", run.entry())

    async def export(self, run: Run, precision: str) -> dict[str, Any]:
        """Write its model beside it as a GGUF file, with a Modelfile for Ollama.

        Raises:
            ApiError: it has no model.
            LaplmError: it cannot be written so.
        """
        if run.state != "done":
            raise ApiError(409, f"this run is {run.state}; what has ended can be exported")
        async with self._exporting:
            return await asyncio.to_thread(self._export, run, precision)

    def _export(self, run: Run, precision: str) -> dict[str, Any]:
        from laplm.model.files.export import export
        from laplm.run.language_model import LanguageModel

        place = run.directory / "export"
        shutil.rmtree(place, ignore_errors=True)  # of another name or precision
        place.mkdir()
        name = run.name or run.id
        model = LanguageModel(str(run.model_directory), "fp32")
        done = export(model, place / f"{name}.gguf", "gguf", precision)
        modelfile = str(done.also[0])
        return {
            "path": str(done.path),
            "size_bytes": done.size_bytes,
            "modelfile": modelfile,
            "command": shlex.join(["ollama", "create", name.lower(), "-f", modelfile]),
        }

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
        for run in self._runs.values():
            run.release()

    async def events(self, run: Run) -> AsyncGenerator[bytes]:
        """The whole entry, then what happens, until a final state."""
        observer: asyncio.Queue[tuple[str, Any] | None] = asyncio.Queue()
        run.watchers.add(observer)
        try:
            yield event(run.entry(), "state")
            while run.state not in _FINAL or not observer.empty():
                try:
                    news = await asyncio.wait_for(observer.get(), _SCAN_SECONDS)
                except TimeoutError:
                    self.refresh()  # others may work on it
                    continue
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
            run.release()
            return
        if code == 0 and run.record["plan"] is not None:
            self._set(run, "planned")
        else:
            self._set(run, "failed", said)
        run.release()

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
        run.release()

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
            said = run.last_stderr_line() or _unexplained_exit(run, code)
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
        tuning_runs.write_entry(run.directory, run.record)
        with contextlib.suppress(OSError):  # so that it is not read again
            run.read_at = ((run.directory / tuning_runs.ENTRY).stat().st_mtime_ns, *run.read_at[1:])

    def _write_data(self, run: Run, content: str) -> None:
        try:
            run.directory.mkdir()
        except OSError as error:
            raise make_write_error(run.directory, error) from None
        data = content.encode("utf-8", errors="replace")  # half of a character is no text
        try:
            self._lock_run(run)
            write_file(run.directory / run.record["data"], data)
            with tuning_runs.lock_names(self._directory):
                run.record["model_name"] = run.name = self._name_for(run.record)
                self._write_entry(run)
        except LaplmError:
            run.release()
            shutil.rmtree(run.directory, ignore_errors=True)
            raise

    def _name_for(self, record: Mapping[str, Any]) -> str:
        """The name that was wanted, or one made of the file's."""
        if record["model_name"] is not None:
            return tuning_runs.check_name_is_free(
                record["model_name"], self._directory, taken=self._taken
            )
        taken = tuning_runs.taken_names(self._directory) | {
            model_names.name_key(name) for name in self._taken
        }
        return model_names.name_from_file(record["name"], taken)


def _unexplained_exit(run: Run, code: int) -> str:
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
        kept = run.record.get("directory")  # where a person wanted it
        await tunings.delete(run)
        for name in (f"run:{id}", run.model_name):
            registry.forget(name)
        return JsonResponse({"id": id, "deleted": True, "kept": kept})

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

    _add_results(api, registry, tunings)
    return api


def _add_results(api: APIRouter, registry: ModelRegistry, tunings: Tunings) -> None:
    """The routes about what a run has made."""

    @api.patch("/{id}", responses=error_responses(*BODY, 404, 409))
    async def rename(id: str, body: RunName) -> Response:
        """Give its model another name."""
        run = tunings.get(id)
        before = run.model_name
        tunings.rename(run, body.model_name)
        registry.forget(before)
        return JsonResponse(run.entry())

    @api.post("/{id}/export", responses=error_responses(*BODY, 404, 409))
    async def export(id: str, body: RunExport) -> Response:
        """Write its model as a GGUF file, with a Modelfile for Ollama, beside it."""
        return JsonResponse(await tunings.export(tunings.get(id), body.precision))

    @api.get(
        "/{id}/report",
        response_class=Response,
        responses=response_content("text/html") | error_responses(400, 404),
    )
    async def report(id: str, theme: Literal["light", "dark"] | None = None) -> Response:
        """What the tuning changed, as a page: light, dark, or as the system is."""
        path = tunings.get(id).model_directory / "report.html"
        try:
            content = await asyncio.to_thread(path.read_bytes)
        except OSError:
            raise ApiError(404, "this run has no report yet; it is written at its end") from None
        if theme is not None:
            scheme = f'<html style="color-scheme: {theme}"'.encode()
            content = content.replace(b"<html", scheme, 1)
        headers = {"Content-Security-Policy": _REPORT_POLICY}
        return Response(content, media_type="text/html", headers=headers)
