"""What stands before every route: who may ask, how much, how slowly, and what browsers may do.

Pure ASGI, since a stream must pass through untouched. A page of another site can make a browser
send requests here, and DNS rebinding can make it look like the same site; so Host must be a name
of ours, and Origin, where there is one, must be the address that the request came to.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import re
import secrets
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from laplm.serve.bodies import read_body
from laplm.serve.logs import log, log_exception
from laplm.serve.metrics import Metrics
from laplm.serve.problems import CLIENT_GONE, ApiError, to_api_error

COOKIE = "laplm_key"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; font-src 'self'; form-action 'none'; base-uri 'none'; frame-src 'self'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
    b"content-security-policy": PAGE_POLICY.encode(),
}
_PROMPTS = ("/v1/", "/api/look/")  # where bodies hold prompts
_MOST_LOGGED = 100_000  # characters of a body
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_OPEN = ("/healthz", "/", "/favicon.ico")  # answered without a key; and the page's own files


@dataclass(frozen=True)
class AccessPolicy:
    """What is let through.

    Attributes:
        key: must come as ``Authorization: Bearer KEY``; None asks for none.
        names: Hosts that are ours, besides the loopback ones.
        anywhere: the server listens beyond this machine, so any address may be its own.
        origins: pages of other sites that may ask, such as https://example.org.
        body_bytes: of a request's body, at most.
        data_bytes: the same where a tuning's text comes.
        body_seconds: for a whole body to come in.
    """

    key: str | None = None
    names: frozenset[str] = frozenset()
    anywhere: bool = False
    origins: frozenset[str] = frozenset()
    body_bytes: int = 2 << 20
    data_bytes: int = 64 << 20
    body_seconds: float = 30.0
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def cookie(self) -> str:
        """What the page's cookie holds in place of the key."""
        return hashlib.sha256(f"laplm page {self.key}".encode()).hexdigest()

    def host_is_ours(self, host: str) -> bool:
        """Whether a Host header names this server."""
        if "@" in host:
            return False
        name = urlsplit(f"//{host}").hostname or ""
        if name == "localhost" or name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        # Nobody can make a name resolve to a bare address, so these cannot be rebound.
        return address.is_loopback or self.anywhere


class SecurityMiddleware:
    """The checks, around the application."""

    def __init__(self, app: ASGIApp, policy: AccessPolicy, *, log_prompts: bool = False) -> None:
        """Stand before ``app``; with ``log_prompts`` what it is asked goes into the log."""
        self._app = app
        self._policy = policy
        self._log_prompts = log_prompts
        # A page that was let in may send any header: clients in browsers have many of their own.
        self._with_cors = CORSMiddleware(
            self._checked,
            allow_origins=policy.origins,
            allow_methods=("GET", "HEAD", "POST", "PATCH", "DELETE"),
            allow_headers=("*",),
            allow_private_network=True,
            expose_headers=("x-request-id", "retry-after"),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request, and hand it on with its whole body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = _headers(scope)
        origin = headers.get(b"origin")

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_headers(message)
            await send(message)

        try:
            self._check_source(scope, headers, origin)
        except ApiError as error:
            await error.response()(scope, receive, sending)
            return
        checked = self._with_cors if origin in self._policy.origins else self._checked
        await checked(scope, receive, sending)

    async def _checked(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Go on with a request from where it may come from: its key and its body."""
        headers = _headers(scope)
        try:
            if await self._logged_in(scope, send):
                return
            self._check_key(scope, headers)
            if self._policy.stopping.is_set():
                raise ApiError(503, "the server is stopping", headers={"Connection": "close"})
            body = await self._body(scope, headers, receive)
            if self._log_prompts and body and scope["path"].startswith(_PROMPTS):
                asked = body.decode("utf-8", errors="replace")[:_MOST_LOGGED]
                scope.setdefault("laplm", {})["body"] = asked
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        await self._app(scope, _replay_body(body, receive), send)

    def _check_source(self, scope: Scope, headers: dict[bytes, str], origin: str | None) -> None:
        host = headers.get(b"host", "")
        try:
            ours = self._policy.host_is_ours(host)
        except ValueError:
            ours = False
        if not ours:
            raise ApiError(
                403,
                f"Host {host!r} is not a name of this server; open it as localhost, or start it "
                "with --allow-host NAME",
                code="host_not_allowed",
            )
        if origin is None:
            # Browsers say so where they send no Origin: an image of another site, say.
            reads_page = scope["method"] == "GET" and headers.get(b"sec-fetch-mode") == "navigate"
            if headers.get(b"sec-fetch-site") in ("cross-site", "same-site") and not reads_page:
                raise _foreign("a page of another site")
        elif origin not in self._policy.origins:
            scheme, _, address = origin.partition("://")
            if scheme not in ("http", "https") or address.lower() != host.lower():
                raise _foreign(f"Origin {origin!r}")

    def _check_key(self, scope: Scope, headers: dict[bytes, str]) -> None:
        policy, path = self._policy, scope["path"]
        if policy.key is None or path in _OPEN or path.startswith("/assets/"):
            return
        kind, _, given = headers.get(b"authorization", "").partition(" ")
        if kind.lower() == "bearer" and _same(given.strip(), policy.key):
            return
        if _same(_cookie(headers.get(b"cookie", "")), policy.cookie()):
            return
        raise ApiError(
            401,
            "this server wants its API key: send Authorization: Bearer KEY (for the page, open "
            "/?key=KEY once)",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )

    async def _logged_in(self, scope: Scope, send: Send) -> bool:
        """Answer ``/?key=KEY`` with a cookie for the page, which cannot send other headers."""
        if self._policy.key is None or scope["path"] != "/" or scope["method"] != "GET":
            return False
        given = parse_qs(scope["query_string"].decode("latin-1")).get("key")
        if not given:
            return False
        if not _same(given[0], self._policy.key):
            raise ApiError(401, "this is not the server's API key", code="invalid_api_key")
        cookie = f"{COOKIE}={self._policy.cookie()}; Path=/; HttpOnly; SameSite=Strict"
        head = [(b"location", b"/"), (b"set-cookie", cookie.encode())]
        await send({"type": "http.response.start", "status": 303, "headers": head})
        await send({"type": "http.response.body", "body": b""})
        return True

    async def _body(self, scope: Scope, headers: dict[bytes, str], receive: Receive) -> bytes:
        policy = self._policy
        large = scope["path"] == "/api/tune"
        return await read_body(
            receive,
            headers,
            max_bytes=policy.data_bytes if large else policy.body_bytes,
            seconds=policy.body_seconds,
        )


def _headers(scope: Scope) -> dict[bytes, str]:
    return {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _foreign(what: str) -> ApiError:
    return ApiError(
        403,
        f"{what} may not use this server; start it with --allow-origin to let a site in",
        code="origin_not_allowed",
    )


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _cookie(header: str) -> str:
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def _add_headers(message: MutableMapping[str, Any]) -> None:
    headers = list(message.get("headers", []))
    there = {name.lower() for name, _ in headers}
    message["headers"] = headers + [
        (name, value) for name, value in _HEADERS.items() if name not in there
    ]


def _replay_body(body: bytes, receive: Receive) -> Receive:
    """What the application receives: the body that has come, then what else the client does."""
    given = False

    async def received() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return received


class MetricsMiddleware:
    """Counts and logs every answer under an id, and answers what escapes, without a traceback."""

    def __init__(self, app: ASGIApp, metrics: Metrics, route_of: Callable[[Scope], str]) -> None:
        self._app = app
        self._metrics = metrics
        self._route_of = route_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0
        method, path, request_id = scope["method"], scope["path"], _request_id(scope)
        fields = scope.setdefault("laplm", {})  # what the log shall tell of this request

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", []), (b"x-request-id", request_id.encode()),
                ]  # fmt: skip
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            log_exception("error", error, path=path, request_id=request_id)
            if not status:
                await to_api_error(error).response()(scope, receive, sending)
        finally:
            seconds = time.perf_counter() - start
            status = status or CLIENT_GONE
            self._metrics.record_request(self._route_of(scope), method, status, seconds)
            if path not in ("/healthz", "/health", "/metrics"):
                client = (scope.get("client") or ("", 0))[0]
                log("request", method=method, path=path, status=status, seconds=round(seconds, 4),
                    client=client, request_id=request_id, **fields)  # fmt: skip


def _request_id(scope: Scope) -> str:
    """The client's name for its request, where it has a plain one; else a new one."""
    given = _headers(scope).get(b"x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
