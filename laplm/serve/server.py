"""From options to a server that listens, and that ends in order.

On SIGTERM or Ctrl-C it takes no new requests, lets those on their way finish within a grace time,
ends what is left with an error that says so, and stops a tuning at its next update.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
import webbrowser
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from laplm.errors import InputError
from laplm.machine import process_listening_on
from laplm.serve.app import ServerOptions, ServerParts, make_app
from laplm.serve.logs import log
from laplm.serve.models import warm_up
from laplm.serve.problems import ApiError

if TYPE_CHECKING:
    from laplm.progress import Progress

LOOPBACK = ("127.0.0.1", "::1", "localhost")
_HEADERS_SECONDS = 10.0  # a connection on which no request comes is closed
_MOST_CONNECTIONS = 512


def serve(
    options: ServerOptions,
    host: str,
    port: int,
    *,
    grace: float = 10.0,
    open_page: bool = False,
    ready: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> None:
    """Listen until told to stop.

    Args:
        options: what is served, and to whom.
        host: address to listen on.
        port: 0 takes a free one.
        grace: seconds that requests may go on after a signal to stop.
        open_page: open a browser when it listens.
        ready: called with the address once it listens.
        progress: called with (what, done, total) while kernels are compiled, before that.

    Raises:
        InputError: the address or the port cannot be used.
        LaplmError: a model that was named cannot be opened.
    """
    listener = listen(host, port)
    settings = options.settings
    warm_up(options.given.values(), settings.precision, progress, context=settings.context)
    app, parts = make_app(options)
    shown = host if host in LOOPBACK or ":" not in host else f"[{host}]"
    shown = "[::1]" if host == "::1" else "localhost" if host in ("0.0.0.0", "::") else shown
    address = f"http://{shown}:{listener.getsockname()[1]}/"
    config = uvicorn.Config(
        app,
        http=_TimeoutProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        lifespan="on",
        timeout_keep_alive=int(_HEADERS_SECONDS),
        timeout_graceful_shutdown=int(grace) + 2,
        limit_concurrency=_MOST_CONNECTIONS,
        h11_max_incomplete_event_size=16 << 10,
    )

    def listening() -> None:
        log("listening", address=address)
        if ready is not None:
            ready(address)
        if open_page:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    _Server(config, parts, grace, listening).run(sockets=[listener])


class _TimeoutProtocol(H11Protocol):
    """HTTP that closes a connection whose request does not come: opened for nothing, or dripped."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._let_be()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What cannot be read as HTTP is answered as everything else is."""
        said = f"{msg.rstrip('.')}; send HTTP/1.1, to http:// and not to https://"
        body = bytes(ApiError(400, said).response().body)
        head = (
            b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
        )
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.transport.write(head + body)
        self.transport.close()

    def _watch(self) -> None:
        # The time is counted from the connection, or from a request's first byte after others.
        if self.cycle is not None and not self.cycle.response_complete:
            self._let_be()
        elif self._late is None:
            self._late = self.loop.call_later(_HEADERS_SECONDS, self.transport.close)

    def _let_be(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class _Server(uvicorn.Server):
    """uvicorn's server, which tells the application when it is to end."""

    def __init__(
        self,
        config: uvicorn.Config,
        parts: ServerParts,
        grace: float,
        listening: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._parts = parts
        self._grace = grace
        self._listening = listening
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told_to_stop = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._listening()

    async def main_loop(self) -> None:
        """Sleep until told to stop. uvicorn's own loop looks ten times a second, on battery too."""
        if not await self.on_tick(0):
            await self._told_to_stop.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal to stop. The second one ends everything at once."""
        if self._loop is not None and not self.should_exit:
            self._loop.call_soon_threadsafe(self._stop)
        super().handle_exit(sig, frame)

    def _stop(self) -> None:
        self._told_to_stop.set()
        log("stopping", grace=self._grace)
        self._parts.stop_soon()
        asyncio.get_running_loop().call_later(self._grace, self._parts.end_streams)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        InputError: the port is taken, or the address is not this machine's.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError, OverflowError) as error:
        raise InputError(f"--host {host} is no address of this machine ({error})") from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    if os.name != "nt":  # there it would let two servers listen on one port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            who = process_listening_on(port)
            by = f" by {who}" if who else ""
            raise InputError(
                f"port {port} is taken{by}; end that, or choose another port: --port {port + 1}, "
                "or --port 0 for any free one"
            ) from None
        if error.errno == errno.EACCES:
            raise InputError(
                f"port {port} may not be used by this user; choose one above 1023"
            ) from None
        raise InputError(f"cannot listen on {host} port {port} ({error.strerror})") from None
    return listener
