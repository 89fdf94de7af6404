"""Answers are JSON, whatever they hold, and what says that the log says more is right."""

from __future__ import annotations

import json
import logging
import math
from typing import Any

import numpy as np
import pytest

from laplm.errors import ContextLengthError, InputError, ModelFormatError, ModelNotFoundError
from laplm.serve.problems import ApiError, to_api_error, to_json, to_logged_api_error
from laplm.serve.streams import event


def strict(text: bytes) -> Any:
    """As any reader of JSON reads it; Python's own also knows NaN and infinities."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_has_no_nan() -> None:
    content = {"a": [1.5, math.nan, {"b": -math.inf}], "c": (math.inf,), 3: np.float32(0.5)}
    assert strict(to_json(content)) == {"a": [1.5, None, {"b": None}], "c": [None], "3": 0.5}
    assert strict(event({"a": math.nan}).removeprefix(b"data: ")) == {"a": None}


def test_json_keeps_what_it_can_of_half_a_character() -> None:
    assert strict(to_json({"a": "\ud800é"})) == {"a": "?é"}


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ContextLengthError("long"), 400, "context_length_exceeded"),
        (InputError("bad"), 400, None),
        (ModelNotFoundError("none"), 404, "model_not_found"),
        (ModelFormatError("damaged"), 503, None),
        (MemoryError(), 503, None),
        (ApiError(418, "tea", code="pot"), 418, "pot"),
        (RuntimeError("secret"), 500, "internal"),
    ],
)
def test_an_error_has_its_status(error: Exception, status: int, code: str | None) -> None:
    found = to_api_error(error)
    assert (found.status, found.code) == (status, code)
    assert "secret" not in str(found)


def test_the_log_holds_the_traceback_that_an_answer_promises(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR, "laplm.serve"):
        for error in (RuntimeError("why"), InputError("bad")):
            try:
                raise error
            except Exception as raised:
                said = str(to_logged_api_error(raised))
            assert ("log says more" in said) == bool(caplog.records)
            for record in caplog.records:
                assert record.exc_info is not None
                assert record.exc_info[1] is error
            caplog.clear()
