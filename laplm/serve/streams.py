"""Answers that take time: streams of server-sent events, and clients that go away meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from laplm.serve.problems import to_json, to_logged_api_error

T = TypeVar("T")

STALLED_SECONDS = 60.0  # a client may take to read what it has been sent
DONE = b"data: [DONE]\n\n"


def event(data: Any, name: str | None = None) -> bytes:
    """One server-sent event."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + to_json(data) + b"\n\n"


class EventStream(Response):
    """Events as they come; what they hold is let go when they end or the client goes away."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes], held: contextlib.AsyncExitStack) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything."""
        async with self._held:
            sending = asyncio.create_task(self._send(scope, send))
            listener = asyncio.create_task(_wait_for_disconnect(receive, sending.cancel))
            try:
                with contextlib.suppress(asyncio.CancelledError):
                    await sending
            finally:
                sending.cancel()
                listener.cancel()

    async def _send(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for chunk in self._events:
                # Who reads nothing for so long holds what others could use.
                async with asyncio.timeout(STALLED_SECONDS):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except TimeoutError:
            scope.setdefault("laplm", {})["error"] = "the client reads nothing"
            return
        except Exception as error:  # the status has been sent: the stream itself must tell
            scope.setdefault("laplm", {})["error"] = repr(error)
            last = event(to_logged_api_error(error).body())
            await send({"type": "http.response.body", "body": last, "more_body": True})
        finally:
            await self._events.aclose()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _wait_for_disconnect(receive: Receive, gone: Callable[[], object]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    gone()


async def cancel_on_disconnect(
    request: Request, work: Coroutine[Any, Any, T], gone: Callable[[], object]
) -> T:
    """What work comes to; ``gone`` is called when the client goes away before."""
    listener = asyncio.create_task(_wait_for_disconnect(request.receive, gone))
    try:
        return await work
    finally:
        listener.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listener
