"""Addresses as clients write them, and HEAD.

Clients put slashes at the end and twice, leave out ``/v1`` as llama-server lets them, and ask with
HEAD whether something is there. All of that is brought to the routes' own form before anything is
checked, so no check can be gone around by another spelling.
"""

from __future__ import annotations

import asyncio
import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# As llama-server has them.
_ALIASES = {
    "/completions": "/v1/completions",
    "/chat/completions": "/v1/chat/completions",
    "/models": "/v1/models",
    "/health": "/healthz",
    "/v1/health": "/healthz",
}


def canonical_path(path: str) -> str:
    """The path that a route has for what a client wrote: ``//v1/models/`` is ``/v1/models``."""
    path = re.sub("/{2,}", "/", path).rstrip("/") or "/"
    if path.startswith("/models/"):
        return f"/v1{path}"
    return _ALIASES.get(path, path)


class PathMiddleware:
    """Brings each request's address to its own form, and answers HEAD where there is a GET."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand before ``app``."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["path"] = canonical_path(scope["path"])
        if scope["method"] == "HEAD":
            await self._head(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The headers of the same request with GET; of a stream too, which goes no further."""
        answered = asyncio.Event()
        body_sent = False

        async def head_only(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                answered.set()

        async def until_answered() -> Message:
            nonlocal body_sent
            if not body_sent:
                message = await receive()
                body_sent = not message.get("more_body", False)
                return message
            await answered.wait()
            return {"type": "http.disconnect"}

        # A copy: whoever sends the answer has to know that this was HEAD.
        as_get = {**scope, "method": "GET"}
        await self._app(as_get, until_answered, head_only)
        scope["route"] = as_get.get("route")
