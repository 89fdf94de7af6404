"""``/api/models/pull``: ``laplm pull`` from the page, where ``laplm serve --allow-pull`` lets it.

One model at a time, in a thread, by the same code as the command's. It goes on when the page is
closed; who stops it, or the server, keeps what has arrived.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from laplm.errors import LaplmError
from laplm.hub.known import KNOWN
from laplm.serve.logs import log, log_exception
from laplm.serve.problems import BODY, ApiError, JsonResponse, error_responses

_REFUSED = (
    "this server pulls no models: it was not started with --allow-pull; in a terminal, laplm pull "
    "does"
)


class _CancelledError(LaplmError):
    """Somebody wants no more of it."""


class PullRequest(BaseModel):
    """``POST /api/models/pull``."""

    model_config = ConfigDict(strict=True)

    name: str = Field(min_length=1, max_length=300)


class Pulls:
    """The model that is being pulled, or was last. Called from the event loop and from its thread.

    Attributes:
        allowed: whether this server may pull at all.
    """

    def __init__(self, allowed: bool, arrived: Callable[[str], None]) -> None:
        """Begin with nothing.

        Args:
            allowed: see there.
            arrived: called with a name, from another thread, when its model is there.
        """
        self.allowed = allowed
        self._arrived = arrived
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._entry: dict[str, Any] | None = None

    def entry(self) -> dict[str, Any] | None:
        """How it stands: name, state (pulling, done, failed, cancelled), bytes, message."""
        with self._lock:
            return None if self._entry is None else dict(self._entry)

    def start(self, name: str) -> None:
        """Begin to pull a model.

        Raises:
            ApiError: this server may not, or pulls another one.
        """
        if not self.allowed:
            raise ApiError(403, _REFUSED, code="pull_not_allowed")
        with self._lock:
            if self._entry is not None and self._entry["state"] == "pulling":
                now = self._entry["name"]
                raise ApiError(
                    409, f"{now} is being pulled; wait for its end, or cancel it", code="busy"
                )
            self._entry = {
                "name": name, "state": "pulling", "done": 0, "total": None, "path": None,
                "message": "",
            }  # fmt: skip
            self._cancelled = threading.Event()
        # A daemon: a server that stops does not wait for the network; what has arrived is kept.
        threading.Thread(target=self._pull, args=(name, self._cancelled), daemon=True).start()

    def cancel(self) -> None:
        """Stop after the piece that is on its way; what has arrived is kept.

        Raises:
            ApiError: nothing is being pulled.
        """
        with self._lock:
            if self._entry is None or self._entry["state"] != "pulling":
                raise ApiError(409, "no model is being pulled")
            self._cancelled.set()

    def _pull(self, name: str, cancelled: threading.Event) -> None:
        from laplm.hub import pull

        def progress(_: str, done: int, total: int) -> None:
            if cancelled.is_set():
                raise _CancelledError
            self._set(done=done, total=total)

        try:
            path = pull.pull(name, progress=progress)
        except _CancelledError:
            self._set(state="cancelled", message="cancelled; what has arrived is kept")
        except LaplmError as error:
            log("pull failed", model=name, reason=str(error))
            self._set(state="failed", message=str(error))
        except Exception as error:
            log_exception("pull", error, model=name)
            self._set(state="failed", message="an internal error; the server's log says more")
        else:
            log("pulled", model=name)
            self._arrived(name)
            self._set(state="done", path=str(path), message=_missing(path))

    def _set(self, **changes: Any) -> None:
        with self._lock:
            assert self._entry is not None
            self._entry |= changes


def _missing(path: Path) -> str:
    """What a model needs besides, and how it comes; empty when that is nothing."""
    from laplm.hub import pull

    base = pull.missing_base_model(path)
    return "" if base is None else f"it is an adapter for {base}, which is not on disk; pull that"


def router(pulls: Pulls) -> APIRouter:
    """The routes."""
    api = APIRouter(prefix="/api/models/pull", tags=["models"])

    def answer(status: int = 200) -> Response:
        known = [
            {
                "name": model.name, "hub_id": model.hub_id, "parameters": model.n_parameters,
                "licence": model.licence, "gated": model.gated,
            }
            for model in KNOWN.values()
        ]  # fmt: skip
        return JsonResponse(
            {"allowed": pulls.allowed, "known": known, "pull": pulls.entry()}, status
        )

    @api.get("")
    async def state() -> Response:
        """Whether models may be pulled, which have short names, and what is on its way."""
        return answer()

    @api.post("", status_code=202, responses=error_responses(*BODY, 403, 404, 409))
    async def pull(body: PullRequest) -> Response:
        """Download a model, as ``laplm pull`` does, if the server was started with that right."""
        pulls.start(body.name)
        return answer(202)

    @api.post("/cancel", responses=error_responses(409))
    async def cancel() -> Response:
        """Stop it; what has arrived is kept."""
        pulls.cancel()
        return answer()

    return api
