"""The application: routes, errors and what stands before them."""

from __future__ import annotations

import asyncio
import contextlib
import mimetypes
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Scope

import laplm
from laplm.errors import LaplmError
from laplm.serve import look, models, openai, pulling, tuning
from laplm.serve.addresses import PathMiddleware
from laplm.serve.metrics import CONTENT_TYPE, Metrics
from laplm.serve.models import ModelRegistry, ServingSettings
from laplm.serve.problems import (
    ApiError,
    JsonResponse,
    error_responses,
    handle_error,
    handle_http_exception,
    handle_validation_error,
    response_content,
)
from laplm.serve.security import AccessPolicy, MetricsMiddleware, SecurityMiddleware

WEB = Path(laplm.__file__).parent / "web"
_STOPPING = "the server is stopping; try again when it is back"


@dataclass(frozen=True)
class ServerOptions:
    """What a server is started with.

    Attributes:
        given: names and what ``laplm.load`` takes for each.
        default: the model that answers where none is named.
        settings: how models are loaded and served.
        policy: what is let through.
        runs: where tunings are kept.
        log_prompts: requests are logged with what they ask.
        allow_pull: the page may have models downloaded.
    """

    given: dict[str, str]
    default: str
    settings: ServingSettings = field(default_factory=ServingSettings)
    policy: AccessPolicy = field(default_factory=AccessPolicy)
    runs: Path | None = None
    log_prompts: bool = False
    allow_pull: bool = False


@dataclass
class ServerParts:
    """What the routes are made of, for who starts and stops the server."""

    registry: ModelRegistry
    metrics: Metrics
    policy: AccessPolicy
    tunings: tuning.Tunings

    def stop_soon(self) -> None:
        """Answer no new request, and stop what trains. In the event loop."""
        self.policy.stopping.set()
        self.tunings.end_streams()

    def end_streams(self) -> None:
        """End what has not ended by itself."""
        self.registry.stop(ApiError(503, _STOPPING))


def make_app(options: ServerOptions) -> tuple[ASGIApp, ServerParts]:
    """The ASGI application, and its parts."""
    registry: ModelRegistry
    metrics = Metrics(lambda: registry.loaded)
    tunings = tuning.Tunings(options.runs, taken=options.given)
    registry = ModelRegistry(
        options.given,
        options.default,
        options.settings,
        runs=tunings.finished_runs,
        observer=metrics,
    )
    pulls = pulling.Pulls(options.allow_pull, registry.invalidate)
    worker = look.Worker(seconds=options.settings.time_limit)
    parts = ServerParts(registry, metrics, options.policy, tunings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tunings.begin()
        yield
        parts.stop_soon()
        parts.end_streams()
        worker.stop()
        await registry.join(5.0)
        await tunings.join(60.0)

    app = FastAPI(
        title="laplm",
        version=laplm.__version__,
        description="Run, look inside and teach a GPT-2-family model: OpenAI's API and more.",
        docs_url=None,  # its page loads scripts from outside
        redoc_url=None,
        redirect_slashes=False,  # addresses.py has taken them off
        lifespan=lifespan,
        responses=error_responses(401, 403, 503),
        exception_handlers={
            HTTPException: handle_http_exception,
            RequestValidationError: handle_validation_error,
            ApiError: handle_error,
            LaplmError: handle_error,
            Exception: handle_error,
        },
    )
    app.include_router(openai.router(registry))
    app.include_router(models.router(registry))
    app.include_router(pulling.router(pulls))
    app.include_router(look.router(registry, worker))
    app.include_router(tuning.router(registry, tunings))
    _add_health(app, metrics)
    _add_page(app)

    def route_of(scope: Scope) -> str:
        return getattr(scope.get("route"), "path", "other")

    secured = SecurityMiddleware(app, options.policy, log_prompts=options.log_prompts)
    return MetricsMiddleware(PathMiddleware(secured), metrics, route_of), parts


def _add_health(app: FastAPI, metrics: Metrics) -> None:
    @app.get("/healthz", tags=["health"])
    async def healthz() -> Response:
        """Whether the server answers."""
        return JsonResponse({"status": "ok"})

    @app.get(
        "/metrics",
        tags=["health"],
        response_class=Response,
        responses=response_content("text/plain"),
    )
    async def prometheus() -> Response:
        """Counters in Prometheus's text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)


def _add_page(app: FastAPI) -> None:
    """The page: files of the package, and nothing else of the disk."""

    def answer(path: Path) -> Response:
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return Response(path.read_bytes(), media_type=kind, headers={"Cache-Control": "no-cache"})

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return await asset("")

    @app.get("/assets/{name:path}", include_in_schema=False)
    async def asset(name: str) -> Response:
        try:
            path = (WEB / "assets" / name if name else WEB / "index.html").resolve()
            if path.is_relative_to(WEB.resolve()) and path.is_file():
                return await asyncio.to_thread(answer, path)
        except (OSError, ValueError):  # a name that no file can have
            pass
        raise ApiError(404, "no such file of the page")
