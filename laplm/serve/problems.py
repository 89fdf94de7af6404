"""What goes wrong, as OpenAI's API says it: a status and ``{"error": {...}}``."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from laplm.errors import (
    ContextLengthError,
    InputError,
    LaplmError,
    MissingExtraError,
    ModelNotFoundError,
)
from laplm.look.view import plain
from laplm.serve.logs import log_exception

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


# When each can come, for the OpenAPI description.
_MEANS = {
    400: "The body is no JSON, or a value in it cannot be used; the message says which and why.",
    401: "The server wants its API key.",
    403: "The Host or the Origin is not one that may use this server.",
    404: "There is nothing of this name.",
    408: "The request came too slowly, or took longer than --time-limit.",
    409: "Not now: the message says what must end first.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    429: "Too many are waiting; come again after so many seconds.",
    503: "The server is stopping, or a model is damaged or does not fit.",
}
_WAIT = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}


class Problem(BaseModel):
    """What went wrong, and what to do."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every answer that is an error has this body, as in OpenAI's API."""

    error: Problem


_INTERNAL = "internal"
CLIENT_GONE = 499  # as nginx counts requests whose client did not wait for an answer
BODY = (400, 408, 413, 415)  # where a request has a body


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What else a route may answer, for the OpenAPI description: statuses with their meaning.

    Whatever is not among them has the same body, which keeps FastAPI from describing its own.
    """
    out: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorBody, "description": _MEANS[status]} for status in statuses
    }
    if 429 in out:
        out[429]["headers"] = _WAIT
    return {"default": {"model": ErrorBody, "description": "Anything else that fails."}, **out}


def response_content(media_type: str) -> dict[int | str, dict[str, Any]]:
    """A kind of answer besides what the route's class says, for the OpenAPI description."""
    return {200: {"content": {media_type: {"schema": {"type": "string"}}}}}


class JsonResponse(Response):
    """A JSON body. What is not text, such as half of a character, comes as a question mark."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        return to_json(content)


def to_json(content: Any) -> bytes:
    """JSON in UTF-8. It has no word for NaN and infinities: they come as null."""
    write = functools.partial(
        json.dumps, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
    try:
        text = write(content)
    except ValueError:  # seldom, so they are looked for only then
        text = write(plain(content))
    return text.encode("utf-8", errors="replace")


class ApiError(Exception):
    """A request that cannot be answered; the message says what to do."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """As OpenAI's API puts it."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> JsonResponse:
        """The whole answer."""
        return JsonResponse(self.body(), self.status, self.headers)


def to_api_error(error: Exception) -> ApiError:
    """The answer to any error; one that is ours says no more than that."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ContextLengthError):
        return ApiError(400, str(error), code="context_length_exceeded")
    if isinstance(error, ModelNotFoundError):
        return ApiError(404, str(error), param="model", code="model_not_found")
    if isinstance(error, InputError | MissingExtraError):
        return ApiError(400, str(error))
    if isinstance(error, LaplmError):  # a damaged model, a full disk
        return ApiError(503, str(error))
    if isinstance(error, MemoryError):
        return ApiError(503, "not enough memory; ask for less, or for a smaller model")
    return ApiError(
        500, f"internal error ({type(error).__name__}); the server's log says more", code=_INTERNAL
    )


def to_logged_api_error(error: Exception) -> ApiError:
    """As ``to_api_error``, for errors that go no further: one of ours is in the log, as it says."""
    problem = to_api_error(error)
    if problem.code == _INTERNAL:
        log_exception("error", error)
    return problem


async def handle_http_exception(_: Request, error: Exception) -> Response:
    """No such route, or not with this method."""
    assert isinstance(error, HTTPException)
    message = {
        400: "the body cannot be read as JSON; send one JSON object in UTF-8, not nested deeply",
        404: "no such address; GET /openapi.json lists those that there are",
        405: "this address does not take this method; GET /openapi.json says which it takes",
    }.get(error.status_code, str(error.detail))
    return ApiError(error.status_code, message, headers=error.headers).response()


async def handle_validation_error(_: Request, error: Exception) -> Response:
    """A body that is not what the route takes: the first thing that is wrong with it."""
    assert isinstance(error, RequestValidationError)
    first, *others = error.errors()
    where = _where(first, error.body)
    if first["type"] == "json_invalid":
        reason = (first.get("ctx") or {}).get("error", "not JSON")
        return ApiError(400, f"the body is not JSON ({reason}); send one JSON object").response()
    param = ".".join(where) or None
    # Of what may be one thing or another, each says what it would have to be.
    reasons = [first["msg"], *(e["msg"] for e in others if _where(e, error.body) == where)]
    said = f"{param or 'the body'}: {', or: '.join(dict.fromkeys(reasons))}"
    return ApiError(400, said, param=param, code=first["type"]).response()


def _where(error: Mapping[str, Any], body: Any) -> list[str]:
    """The way to a wrong value, without the names of the types that it might have had."""
    where = []
    for part in error["loc"][1:]:
        there = isinstance(part, int) and isinstance(body, list) and part < len(body)
        if there or (isinstance(body, dict) and part in body):
            body = body[part]
            where.append(str(part))
        elif error["type"] == "missing":
            where.append(str(part))
        else:
            break
    return where


async def handle_error(_: Request, error: Exception) -> Response:
    """An error of ours that a person can act on."""
    return to_api_error(error).response()
