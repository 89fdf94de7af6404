"""``/api/look``: every view of ``laplm.look.VIEWS`` over HTTP.

Routes and the fields of requests are made from the entries. One thread works on views; who comes
while too many wait is told to come again. A view whose client has gone, as a page's does with the
next key that is pressed, is given up between two layers.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Request
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, create_model
from starlette.responses import Response

from laplm.look import VIEWS, passes
from laplm.look.registry import INT32, Parameter, ViewEntry
from laplm.look.view import Grid, Maps, Part, Passage, Table, plain
from laplm.serve.models import ModelRegistry
from laplm.serve.parameters import JsonInteger
from laplm.serve.problems import BODY, CLIENT_GONE, ApiError, JsonResponse, error_responses, to_json
from laplm.serve.streams import cancel_on_disconnect

T = TypeVar("T")

MOST_WAITING = 8
_KINDS = {Table: "table", Grid: "grid", Maps: "maps", Passage: "passage"}
_Whole = Annotated[JsonInteger, Field(ge=INT32[0], le=INT32[1])]
# As values, not as types: what is in their brackets is known only when the program runs.
_LITERAL: Any = Literal
_LIST: Any = list
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Name = Annotated[str, Field(max_length=300)]


class LookRequest(BaseModel):
    """What every view takes."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    model: str | None = Field(None, max_length=300)


def request_of(entry: ViewEntry) -> type[LookRequest]:
    """What a view takes, as a request's body."""
    fields: dict[str, Any] = {}
    for p in entry.parameters:
        names = AliasChoices(p.name, *p.former) if p.former else None
        given = ... if p.required else list(p.default) if p.many and p.default else p.default
        fields[p.name] = (_json_type(p), Field(given, validation_alias=names))
    return create_model(
        f"Look{entry.name.title()}", __base__=LookRequest, __doc__=f"The view {entry.name}.",
        **fields,
    )  # fmt: skip


def _json_type(p: Parameter) -> Any:
    """The type of a parameter in a request; its numbers are no larger than the machine's."""
    one: Any = {
        "prompt": str | list[_Whole],
        "string": _LITERAL[p.choices] if p.choices else str,
        "int": Annotated[JsonInteger, Field(ge=p.bounds[0], le=p.bounds[1])],
        "float": _Number,
        "bool": bool,
        "model": _Name,
    }[p.kind]
    if p.many:
        one = one | _LIST[one] if p.many == "or one" else _LIST[one]
    return one | None if p.default is None else one


def describe_view(entry: ViewEntry) -> dict[str, Any]:
    """A view as ``GET /api/look`` lists it."""
    parameters = [
        {
            "name": p.name,
            "type": p.json_type,
            "default": None if p.required else plain(p.default),
            "required": p.required,
        }
        for p in entry.parameters
    ]
    return {
        "name": entry.name, "title": entry.title, "summary": entry.summary,
        "parameters": parameters,
    }  # fmt: skip


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

        def check() -> None:
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
                with passes.cancellable(check):
                    return make(lambda *_: check())
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

    @api.get("")
    async def list_views() -> Response:
        """The views that there are, and what they take."""
        return JsonResponse({"views": [describe_view(entry) for entry in VIEWS]})

    for entry in VIEWS:
        _add(api, entry, registry, worker)
    return api


def _add(api: APIRouter, entry: ViewEntry, registry: ModelRegistry, worker: Worker) -> None:
    function = entry.load()
    reports = "progress" in inspect.signature(function).parameters

    async def look(body: LookRequest, request: Request) -> Response:
        arguments = {name: getattr(body, name) for name in body.model_fields_set - {"model"}}
        async with contextlib.AsyncExitStack() as stack:
            served = await stack.enter_async_context(registry.use(body.model))
            model = await registry.look_model(served)
            for name in entry.other_models:
                other = await stack.enter_async_context(registry.use(arguments[name]))
                arguments[name] = await registry.look_model(other)

            def make(progress: Callable[..., None]) -> bytes:
                start = time.perf_counter()
                made = function(model, **arguments, **({"progress": progress} if reports else {}))
                answer = {
                    "view": entry.name,
                    "model": served.name,
                    "sentence": made.sentence(),
                    "result": made.to_dict(),
                    "parts": [part_json(part) for part in made.parts()],
                }
                return to_json({"seconds": time.perf_counter() - start, **answer})

            answer = await worker.run(request, make)
        return Response(answer, media_type=JsonResponse.media_type)

    look.__annotations__["body"] = request_of(entry)
    look.__doc__ = entry.summary
    responses = error_responses(*BODY, 404, 429)
    api.post(f"/{entry.name}", name=entry.name, summary=entry.title, responses=responses)(look)
