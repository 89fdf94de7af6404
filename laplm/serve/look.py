"""``/api/look``: every view of ``laplm look`` over HTTP.

A view's parameters are those of its function, so a view is added by one line in ``views``. One
thread works on views; who comes while too many wait is told to come again. A view whose client has
gone, as a page's does with the next key that is pressed, is given up between two layers.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
import threading
import time
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, create_model
from starlette.responses import Response

from laplm.look import (
    ablation,
    attention,
    attribution,
    block,
    compare,
    continuations,
    embeddings,
    generation,
    inside,
    lens,
    next_token,
    passes,
    patching,
    positions,
    stats,
    steering,
    tokens,
    trace,
)
from laplm.look.view import Grid, Maps, Model, Part, Passage, Table, View, plain
from laplm.run.language_model import LanguageModel
from laplm.serve.models import ModelRegistry
from laplm.serve.parameters import JsonInteger
from laplm.serve.problems import BODY, CLIENT_GONE, ApiError, JsonResponse, error_responses, to_json
from laplm.serve.streams import cancel_on_disconnect

T = TypeVar("T")
Make = Callable[..., View]

MOST_WAITING = 8
_KINDS = {Table: "table", Grid: "grid", Maps: "maps", Passage: "passage"}
# Not for a request to say.
_OURS = ("model", "progress", "max_bytes")
_Whole = Annotated[JsonInteger, Field(ge=-(2**31), lt=2**31)]
_Seed = Annotated[JsonInteger, Field(ge=0, lt=2**63)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Name = Annotated[str, Field(max_length=300)]


def _write_without(
    model: LanguageModel,
    text: str | list[int],
    *,
    without: list[str],
    how: ablation.How = "zero",
    mean_of: str | list[str] | None = None,
    max_new_tokens: int = 30,
    temperature: float = 0.8,
    top_k: int = 40,
    seed: int = 1,
) -> View:
    """Text written without parts such as head:3.1, attention:2, feed-forward:0, neuron:4.17."""
    parts = ablation.parts_named(without)
    tap = ablation.ablation_tap(model, **parts, how=how, mean_of=mean_of)
    return continuations.continuations(
        model,
        text,
        {"nothing": None, f"without {', '.join(without)}": tap},
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
    )


def _write_patched(
    model: LanguageModel,
    clean: str | list[int],
    corrupted: str | list[int],
    *,
    layer: int,
    positions: list[int],
    stages: list[str] = ["resid_pre"],  # noqa: B006 (never changed)
    max_new_tokens: int = 30,
    temperature: float = 0.8,
    top_k: int = 40,
    seed: int = 1,
) -> View:
    """Text written by a corrupted prompt with positions of one layer patched from a clean one."""
    where = ", ".join(map(str, positions))
    changes: dict[str, Any] = {"nothing": None}
    for stage in stages:
        changes[f"{stage} of layer {layer} at {where}"] = patching.patching_tap(
            model, clean, corrupted, stage=stage, layer=layer, positions=positions
        )
    return continuations.continuations(
        model,
        corrupted,
        changes,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
    )


# Name -> title and function. What `laplm look` has as an option of a view is a view of its own.
VIEWS: dict[str, tuple[str, Make]] = {
    "stats": ("Sizes", stats.stats),
    "scale": ("Models by year", stats.model_scale),
    "tokens": ("Tokens", tokens.tokens),
    "embeddings": ("Embeddings", embeddings.embeddings),
    "nearest": ("Nearest tokens", embeddings.nearest),
    "positions": ("Positions", positions.positions),
    "order": ("The order of words", positions.word_order),
    "block": ("One block", block.block),
    "residual": ("The residual stream", block.residual_stream),
    "attention": ("Attention", attention.attention),
    "kinds": ("Kinds of heads", attention.head_kinds),
    "next": ("The next token", next_token.next_token),
    "inside": ("One pass at a glance", inside.inside),
    "lens": ("Logit lens", lens.lens),
    "attribution": ("Attribution", attribution.attribution),
    "ablate": ("Ablation", ablation.ablate),
    "without": ("Text without parts", _write_without),
    "patch": ("Patching", patching.patch),
    "patched": ("Text under a patch", _write_patched),
    "steer": ("Steering", steering.steer),
    "trace": ("Every activation", trace.trace),
    "compare": ("Two models", compare.compare),
    "generation": ("A continuation", generation.generation),
}


class LookRequest(BaseModel):
    """What every view takes."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    model: str | None = Field(None, max_length=300)


@dataclasses.dataclass(frozen=True)
class Shown:
    """A view that can be asked for.

    Attributes:
        name: in the address.
        title: for people.
        make: its function.
        body: the arguments that it takes.
    """

    name: str
    title: str
    make: Make
    body: type[LookRequest]

    @property
    def summary(self) -> str:
        """What its function says of itself, first."""
        return (inspect.getdoc(self.make) or "").split("\n\n")[0].replace("\n", " ")

    def entry(self) -> dict[str, Any]:
        """As ``GET /api/look`` lists it."""
        signature = inspect.signature(self.make)
        parameters = [
            {
                "name": p.name,
                "type": str(p.annotation).removeprefix("passes."),
                "default": None if p.default is p.empty else plain(p.default),
                "required": p.default is p.empty,
            }
            for p in signature.parameters.values()
            if p.name not in _OURS
        ]
        return {
            "name": self.name, "title": self.title, "summary": self.summary,
            "parameters": parameters,
        }  # fmt: skip


def views() -> list[Shown]:
    """All of them."""
    return [Shown(name, title, make, _body(name, make)) for name, (title, make) in VIEWS.items()]


def _body(name: str, make: Make) -> type[LookRequest]:
    """What a function takes, as a request's body."""
    hints = typing.get_type_hints(make)
    fields: dict[str, Any] = {}
    for p in inspect.signature(make).parameters.values():
        if p.name not in _OURS:
            kind = _Seed if p.name == "seed" and hints[p.name] is int else _bounded(hints[p.name])
            fields[p.name] = (kind, ... if p.default is p.empty else p.default)
    return create_model(
        f"Look{name.title()}", __base__=LookRequest, __doc__=f"The view {name}.", **fields
    )


def _bounded(hint: Any) -> Any:
    """A type of Python's as JSON has it, its numbers no larger than the machine's."""
    if hint is int:
        return _Whole
    if hint is float:
        return _Number
    if hint is Model:  # by its name
        return _Name
    origin = typing.get_origin(hint)
    if origin is Literal or hint in (str, bool, type(None)):
        return hint
    inner = [_bounded(each) for each in typing.get_args(hint) if each is not bytes]
    if origin in (types.UnionType, typing.Union):
        return typing.Union[tuple(inner)]  # noqa: UP007 (made of a list)
    if origin in (Sequence, Iterable, list):
        return list[inner[0]]  # type: ignore[valid-type]
    raise TypeError(f"a view takes {hint}, which no request can hold")


class Worker:
    """One thread for views, and a short queue before it."""

    def __init__(self, most: int = MOST_WAITING, seconds: float = 600.0) -> None:
        """Start.

        Args:
            most: requests at one time, the one that is worked on included.
            seconds: that one may take.
        """
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="laplm-look")
        self._most = most
        self._seconds = seconds
        self._waiting = 0
        self._last = 1.0  # how long the last one took

    async def run(self, request: Request, make: Callable[[Callable[..., None]], T]) -> T:
        """What ``make`` gives; it is handed what to call with its progress.

        Raises:
            ApiError: too many wait already (429), it takes too long, or nobody waits for it.
        """
        if self._waiting >= self._most:
            seconds = max(1, min(60, round(self._last * self._waiting)))
            raise ApiError(
                429,
                f"{self._waiting} views are being made already; try again in {seconds} s",
                code="queue_full",
                headers={"Retry-After": str(seconds)},
            )
        gone = threading.Event()
        end = time.perf_counter() + self._seconds

        def between() -> None:
            if gone.is_set():
                raise _left()
            if time.perf_counter() > end:
                raise ApiError(
                    408,
                    f"this view took longer than {self._seconds:g} s; ask for less",
                    code="time_limit",
                )

        def work() -> T:
            start = time.perf_counter()
            try:
                with passes.stoppable(between):
                    return make(lambda *_: between())
            finally:
                self._last = time.perf_counter() - start

        future = self._pool.submit(work)

        def leave() -> None:
            gone.set()
            future.cancel()  # if it only waits: it frees its place at once

        async def made() -> T:
            try:
                return await asyncio.wrap_future(future)
            except asyncio.CancelledError:
                if gone.is_set():
                    raise _left() from None
                raise

        self._waiting += 1
        try:
            return await cancel_on_disconnect(request, made(), leave)
        finally:
            self._waiting -= 1

    def stop(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _left() -> ApiError:
    return ApiError(CLIENT_GONE, "nobody waits for this view any more")


def part_json(part: Part) -> dict[str, Any]:
    """A part of a view as JSON has it."""
    return {"kind": _KINDS[type(part)], **plain(part)}


def router(registry: ModelRegistry, worker: Worker) -> APIRouter:
    """The routes."""
    api = APIRouter(prefix="/api/look", tags=["looking inside"])
    shown = views()

    @api.get("")
    async def list_views() -> Response:
        """The views that there are, and what they take."""
        return JsonResponse({"views": [view.entry() for view in shown]})

    for view in shown:
        _add(api, view, registry, worker)
    return api


def _add(api: APIRouter, view: Shown, registry: ModelRegistry, worker: Worker) -> None:
    other_models = [n for n, h in typing.get_type_hints(view.make).items()
                    if h is Model and n != "model"]  # fmt: skip
    reports = "progress" in inspect.signature(view.make).parameters

    async def look(body: LookRequest, request: Request) -> Response:
        arguments = {name: getattr(body, name) for name in body.model_fields_set - {"model"}}
        async with contextlib.AsyncExitStack() as stack:
            served = await stack.enter_async_context(registry.use(body.model))
            model = await registry.look_model(served)
            for name in other_models:
                other = await stack.enter_async_context(registry.use(arguments[name]))
                arguments[name] = await registry.look_model(other)

            def make(progress: Callable[..., None]) -> bytes:
                start = time.perf_counter()
                made = view.make(model, **arguments, **({"progress": progress} if reports else {}))
                answer = {
                    "view": view.name,
                    "model": served.name,
                    "result": made.to_dict(),
                    "parts": [part_json(part) for part in made.parts()],
                }
                return to_json({"seconds": time.perf_counter() - start, **answer})

            answer = await worker.run(request, make)
        return Response(answer, media_type=JsonResponse.media_type)

    look.__annotations__["body"] = view.body
    look.__doc__ = view.summary
    responses = error_responses(*BODY, 404, 429)
    api.post(f"/{view.name}", name=view.name, summary=view.title, responses=responses)(look)
