"""The models that can be asked for by name, and those of them that are in memory.

A name is one that was given at the start, ``pocket``, one that ``laplm pull`` has brought, or that
of what a tuning has made (``run:ID`` too, which does not change); never a path. A model is loaded
when it is first used, off the event loop, and the least recently used idle one makes room.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from laplm import built_in
from laplm.errors import InputError, LaplmError
from laplm.hub import locate
from laplm.hub.licence import licence_of
from laplm.hub.tuning_runs import TuningRun, document_opening
from laplm.model.chat import read_chat_templates
from laplm.model.files.adapter import is_adapter, read_adapter_config
from laplm.model.files.checkpoint import read_config
from laplm.model.files.gguf_reader import read_gguf
from laplm.serve.problems import BODY, ApiError, JsonResponse, error_responses
from laplm.serve.scheduler import Scheduler, SchedulerObserver
from laplm.tune_config import TRAINED_FAMILIES

if TYPE_CHECKING:
    from laplm.model.config import ModelConfig
    from laplm.model.engine.quantize import Precision
    from laplm.progress import Progress
    from laplm.run.language_model import LanguageModel

_SCAN_SECONDS = 2.0  # how long a list of what is on disk is good for


@dataclass(frozen=True)
class ServingSettings:
    """How models are loaded and served.

    Attributes:
        precision: for text; None is what ``LanguageModel`` chooses.
        look_precision: for views.
        threads: threads that work; None is one a core.
        context: positions of a text, at most; None is what ``LanguageModel`` chooses.
        keep: models in memory, at most, as long as the others are idle.
        slots: samples of a model decoded together.
        queue: requests of a model that wait, at most.
        time_limit: seconds that a request may take.
        strict: refuse what OpenAI's own server refuses: more tokens than fit, and more than four
            stop strings.
    """

    precision: Precision | None = None
    look_precision: Precision = "fp32"
    threads: int | None = None
    context: int | None = None
    keep: int = 3
    slots: int = 16
    queue: int = 64
    time_limit: float = 600.0
    strict: bool = False


class ServedModel:
    """A model in memory.

    Attributes:
        name: what it is asked for by.
        lm: for text.
        scheduler: its engine.
    """

    def __init__(self, name: str, lm: LanguageModel, scheduler: Scheduler) -> None:
        self.name = name
        self.lm = lm
        self.scheduler = scheduler
        self.look: LanguageModel | None = None
        self.opening = asyncio.Lock()
        self.users = 0
        self.last_used = time.monotonic()

    @property
    def memory_bytes(self) -> int:
        """Bytes of the weights as they lie in memory, those for looking included."""
        out = self.lm.gpt.weights_span()[1]
        if self.look is not None and self.look is not self.lm:
            if "gpt" in vars(self.look):  # made when a view first writes text
                out += self.look.gpt.weights_span()[1]
            if self.look.precision == "fp32":  # the checkpoint's own tensors
                out += 4 * self.look.config.n_parameters
        return out


class ModelRegistry:
    """Names and what they stand for.

    Attributes:
        default: the name of the model that answers where none is named.
    """

    def __init__(
        self,
        given: Mapping[str, str],
        default: str,
        settings: ServingSettings,
        *,
        runs: Callable[[], Mapping[str, TuningRun]] = dict,
        observer: SchedulerObserver | None = None,
    ) -> None:
        """Begin with nothing loaded.

        Args:
            given: names and what ``laplm.load`` takes for each: a name or a directory.
            default: one of all the names.
            settings: see there.
            runs: the finished tunings, by their ids.
            observer: told of tokens and passes.
        """
        self.default = default
        self.settings = settings
        self._given = dict(given)
        self._runs = runs
        self._observer = observer
        self._installed: dict[str, str] = {}
        self._scanned = -_SCAN_SECONDS
        self._loaded: dict[str, ServedModel] = {}
        self._loading: dict[str, asyncio.Task[ServedModel]] = {}
        self._described: dict[tuple[str, str], dict[str, Any]] = {}

    # --- names ---

    async def names(self) -> dict[str, str]:
        """Every name and what ``laplm.load`` takes for it."""
        if time.monotonic() - self._scanned >= _SCAN_SECONDS:
            self._installed = await asyncio.to_thread(_installed)
            self._scanned = time.monotonic()
        runs = {r.name or f"run:{id_}": str(r.model_directory) for id_, r in self._runs().items()}
        return {**self._given, **self._installed, **runs, **self._given}

    async def target(self, name: str) -> str:
        """What ``laplm.load`` takes for a name.

        Raises:
            ApiError: there is none of this name.
        """
        target = (await self.names()).get(name)
        if target is None and name.startswith("run:"):
            run = self._runs().get(name.removeprefix("run:"))
            target = None if run is None else str(run.model_directory)
        if target is None:
            raise ApiError(
                404,
                f"there is no model {name!r} here; GET /v1/models lists those that there are, and "
                "laplm serve NAME adds one",
                param="model",
                code="model_not_found",
            )
        return target

    # --- in memory ---

    @property
    def loaded(self) -> list[ServedModel]:
        """Models in memory."""
        return list(self._loaded.values())

    @contextlib.asynccontextmanager
    async def use(self, name: str | None) -> AsyncIterator[ServedModel]:
        """A model, loaded if need be; it stays in memory while it is used.

        Raises:
            ApiError: there is none of this name.
            LaplmError: it cannot be loaded.
        """
        served = await self._get(name or self.default)
        served.users += 1
        try:
            yield served
        finally:
            served.users -= 1
            served.last_used = time.monotonic()
            self._evict()

    async def load(self, name: str) -> ServedModel:
        """Bring a model into memory."""
        served = await self._get(name)
        self._evict(but=served)
        return served

    async def unload(self, name: str) -> None:
        """Take a model out of memory.

        Raises:
            ApiError: there is none of this name, or it is being used.
        """
        await self.target(name)
        served = self._loaded.get(name)
        if served is None:
            return
        if served.users:
            raise ApiError(409, f"{name} is being used; try again when its requests have ended")
        self._drop(served)

    async def look_model(self, served: ServedModel) -> LanguageModel:
        """The model in the precision that views use. Call while ``use`` is held."""
        precision = self.settings.look_precision
        if served.look is None and precision == served.lm.precision:
            served.look = served.lm
        async with served.opening:  # whoever comes meanwhile waits for the same
            if served.look is None:
                served.look = await asyncio.to_thread(
                    self._open, served.name, str(served.lm.path), precision
                )
        return served.look

    async def _get(self, name: str) -> ServedModel:
        served = self._loaded.get(name)
        if served is not None and name not in self._given:
            for run in self._runs().values():
                # Another result has the name by now.
                if run.name == name and str(run.model_directory) != str(served.lm.path):
                    self._drop(served)
        target = "" if name in self._loaded else await self.target(name)
        served = self._loaded.get(name)  # another request may have brought it in meanwhile
        if served is not None:
            served.last_used = time.monotonic()
            return served
        task = self._loading.get(name)
        if task is None:  # whoever comes while it loads waits for the same
            task = asyncio.create_task(self._load(name, target))
            self._loading[name] = task
            task.add_done_callback(lambda _: self._loading.pop(name, None))
        return await asyncio.shield(task)

    async def _load(self, name: str, target: str) -> ServedModel:
        # Of the models named at the start this was checked; others may hold less by themselves.
        context = self.settings.context if name in self._given else None
        lm = await asyncio.to_thread(self._open, name, target, self.settings.precision, context)
        await asyncio.to_thread(lambda: lm.gpt)
        settings = self.settings
        scheduler = Scheduler(
            lm,
            asyncio.get_running_loop(),
            slots=settings.slots,
            queue=settings.queue,
            time_limit=settings.time_limit,
            observer=self._observer,
        )
        served = ServedModel(name, lm, scheduler)
        self._loaded[name] = served
        self._evict(but=served)
        return served

    def _open(
        self, name: str, target: str, precision: Precision | None, context: int | None = None
    ) -> LanguageModel:
        from laplm.run.language_model import LanguageModel

        lm = LanguageModel(target, precision, self.settings.threads, context=context)
        if context is None and self.settings.context is not None:
            lm.context = min(lm.context, self.settings.context)
        lm.name = name  # views and answers name it so, and not by its path
        return lm

    def _evict(self, but: ServedModel | None = None) -> None:
        """Let the least recently used idle models go, down to as many as are kept."""
        while len(self._loaded) > self.settings.keep:
            idle = [s for s in self._loaded.values() if not s.users and s is not but]
            if not idle:
                return
            self._drop(min(idle, key=lambda served: served.last_used))

    def _drop(self, served: ServedModel) -> None:
        del self._loaded[served.name]
        served.scheduler.stop()

    def invalidate(self, name: str) -> None:
        """A model is another one now, or new: what was known of it is read again. In any thread."""
        self._scanned = -_SCAN_SECONDS
        for key in [key for key in list(self._described) if key[0] == name]:
            self._described.pop(key, None)

    def forget(self, name: str) -> None:
        """A model is no longer there."""
        self.invalidate(name)
        served = self._loaded.get(name)
        if served is not None:
            self._drop(served)

    def stop(self, reason: ApiError) -> None:
        """End every engine."""
        for served in self._loaded.values():
            served.scheduler.stop(reason)

    async def join(self, seconds: float) -> None:
        """Wait for the engines' threads."""
        for served in self._loaded.values():
            await asyncio.to_thread(served.scheduler.join, seconds)

    # --- told ---

    async def entries(self) -> list[dict[str, Any]]:
        """All models, as ``GET /api/models`` lists them."""
        names = await self.names()
        # A result of tuning may have the name of one that was taken away: it lies elsewhere.
        new = names.items() - self._described.keys()
        if new:
            self._described |= await asyncio.to_thread(
                lambda: {(name, target): _describe(name, target) for name, target in new}
            )
        runs = {str(run.model_directory): run for run in self._runs().values()}
        return [
            self._entry(*each, runs.get(self._described[each]["path"])) for each in names.items()
        ]

    async def entry(self, name: str) -> dict[str, Any]:
        """One of ``entries``.

        Raises:
            ApiError: there is none of this name.
        """
        target = await self.target(name)
        found = [each for each in await self.entries() if each["name"] == name]
        if found:
            return found[0]
        described = await asyncio.to_thread(_describe, name, target)  # run:ID of one with a name
        self._described[name, target] = described
        return self._entry(name, target, self._runs().get(name.removeprefix("run:")))

    def _entry(self, name: str, target: str, run: TuningRun | None) -> dict[str, Any]:
        served = self._loaded.get(name)
        opening, asks = (None, False) if run is None else document_opening(run.record)
        return self._described[name, target] | {
            "run": None if run is None else run.id,
            "opening": opening,
            "asks": asks,
            "loaded": served is not None,
            "precision": served.lm.precision if served else self.settings.precision,
            "look_precision": (
                None if served is None or served.look is None else self.settings.look_precision
            ),
            "memory_bytes": None if served is None else served.memory_bytes,
        }


def warm_up(
    targets: Iterable[str],
    precision: Precision | None,
    progress: Progress | None = None,
    *,
    context: int | None = None,
) -> None:
    """Open every model that was named, and have the kernels for its text compiled.

    So nobody's first request waits for the compiler, and a model that cannot be opened is known
    before the server listens. Weights stay on disk until they are asked for.

    Raises:
        LaplmError: one cannot be opened.
    """
    from laplm.model.engine.model import load_kernels
    from laplm.run.language_model import LanguageModel

    for target in dict.fromkeys(targets):
        lm = LanguageModel(target, precision, context=context)
        load_kernels(lm.checkpoint, lm.precision, progress)


def given_models(words: list[str]) -> dict[str, str]:
    """Names for the models given at the start: a name, a directory, or NAME=DIRECTORY.

    Raises:
        InputError: two have the same name, or one has none.
    """
    given: dict[str, str] = {}
    for word in words:
        name, equals, target = word.partition("=")
        if not equals or Path(word).is_dir():
            target = word
            is_path = Path(word).is_dir() and word not in (locate.POCKET, *locate.ALIASES)
            name = Path(word).resolve().name if is_path else word
        if not name or not target or name.startswith("run:"):
            raise InputError(f"{word!r} is no model; give a name, a directory, or NAME=DIRECTORY")
        if given.get(name, target) != target:
            raise InputError(f"two models are called {name}; name one of them: other={target}")
        given[name] = target
    return given


def _installed() -> dict[str, str]:
    return {model.name: model.name for model in locate.installed() if model.problem is None}


def _describe(name: str, target: str) -> dict[str, Any]:
    """What does not change while a model is there."""
    out: dict[str, Any] = {
        "name": name,
        "path": target,
        "built_in": False,
        "bytes_on_disk": None,
        "chat": False,
        "adapter": False,
        "description": "",
        "parameters": None,
        "family": None,
        "tunable": False,
        "stored_as": None,
        "licence": None,
        **dict.fromkeys(("n_layer", "n_head", "n_embd", "n_ctx", "vocab_size")),
    }
    try:
        path = locate.locate(target)
        adapter = is_adapter(path)
        base, stored_as = path, None
        if adapter:
            base = locate.locate_base(path, read_adapter_config(path).base_model_name_or_path)
        # Once for all that is asked of it: a GGUF file's vocabulary takes a moment to read.
        file = read_gguf(base) if base.is_file() else None
        config: ModelConfig = read_config(base, file)
        chat = bool((adapter and read_chat_templates(path)) or read_chat_templates(base, file))
        if not adapter:
            stored_as = locate.describe(target, file).dtype
    except LaplmError as error:
        return out | {"description": str(error)}
    is_built_in = path.resolve() == built_in.DIRECTORY.resolve()
    return out | {
        "path": str(path.absolute()),
        "built_in": is_built_in,
        "bytes_on_disk": _bytes_on_disk(path),
        "chat": chat,
        "adapter": adapter,
        "description": built_in.summary() or "" if is_built_in else "",
        "parameters": config.n_parameters,
        "family": config.family,
        "tunable": config.family in TRAINED_FAMILIES,
        "stored_as": stored_as,
        "licence": licence_of(path, None if adapter else file),
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_ctx": config.n_ctx,
        "vocab_size": config.vocab_size,
    }


def _bytes_on_disk(path: Path) -> int:
    """Of a model's directory, or its file."""
    files = [path] if path.is_file() else path.glob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


# --- routes -----------------------------------------------------------------------------------


class ModelName(BaseModel):
    """Which model is meant."""

    model_config = ConfigDict(strict=True)

    model: str = Field(max_length=300)


def router(registry: ModelRegistry) -> APIRouter:
    """``/api/models``: what there is, and what is in memory."""
    api = APIRouter(prefix="/api/models", tags=["models"])

    @api.get("")
    async def models() -> Response:
        """All models, with their sizes."""
        return JsonResponse({"default": registry.default, "models": await registry.entries()})

    @api.post("/load", responses=error_responses(*BODY, 404))
    async def load(body: ModelName) -> Response:
        """Bring a model into memory."""
        await registry.load(body.model)
        return JsonResponse(await registry.entry(body.model))

    @api.post("/unload", responses=error_responses(*BODY, 404, 409))
    async def unload(body: ModelName) -> Response:
        """Take a model out of memory."""
        await registry.unload(body.model)
        return JsonResponse(await registry.entry(body.model))

    return api
