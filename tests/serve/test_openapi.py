"""Requests that the OpenAPI description allows: none is answered with a fault of ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)
from serving import Running, started

from laplm.look import VIEWS

CONFORMS = [content_type_conformance, response_headers_conformance, response_schema_conformance]
ROUTES = [
    ("GET", "/healthz"),
    ("GET", "/metrics"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/chat/completions"),
    ("GET", "/api/models"),
    ("POST", "/api/models/load"),
    ("POST", "/api/models/unload"),
    ("GET", "/api/models/pull"),
    ("POST", "/api/models/pull"),
    ("POST", "/api/models/pull/cancel"),
    ("GET", "/api/look"),
    ("GET", "/api/tune"),
    ("POST", "/api/tune"),
    ("GET", "/api/tune/{id}"),
    ("PATCH", "/api/tune/{id}"),
    ("DELETE", "/api/tune/{id}"),
    ("POST", "/api/tune/{id}/start"),
    ("POST", "/api/tune/{id}/stop"),
    ("GET", "/api/tune/{id}/events"),
    ("GET", "/api/tune/{id}/report"),
    ("POST", "/api/tune/{id}/export"),
    *(("POST", f"/api/look/{entry.name}") for entry in VIEWS),
]


@pytest.fixture(scope="module")
def server(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    runs = tmp_path_factory.mktemp("runs")
    with started(f"tiny={tiny_model_dir}", "--runs", str(runs)) as server:
        yield server


@pytest.fixture(scope="module")
def schema(server: Running) -> Any:
    return schemathesis.openapi.from_url(f"{server.address}/openapi.json")


def test_every_route_is_described(schema: Any) -> None:
    paths = schema.raw_schema["paths"]
    found = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert found == set(ROUTES)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_errors_are_described_as_they_are_answered(schema: Any, method: str, path: str) -> None:
    operation = schema.raw_schema["paths"][path][method.lower()]
    answers = operation["responses"]
    assert "422" not in answers
    want = {"401", "403", "503"}
    if "requestBody" in operation:
        want |= {"400", "404", "413", "415"}  # 404: it names a model
    if "{" in path:
        want.add("404")
    if path.startswith(("/api/look/", "/v1/c")):
        want.add("429")
    assert want <= answers.keys()
    body = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
    errors = [answer for status, answer in answers.items() if not status.startswith("2")]
    assert [answer["content"] for answer in errors] == [body] * len(errors)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_no_request_is_answered_with_a_fault_of_ours_or_as_is_not_described(
    server: Running, schema: Any, method: str, path: str
) -> None:
    described = schema.raw_schema["paths"][path][method.lower()]["responses"]

    @given(case=schema[path][method].as_strategy())
    @settings(
        max_examples=12,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Case) -> None:
        answer = case.call(base_url=server.address, timeout=120)
        # 503 would be a model that is damaged, or a server that stops: neither is so here.
        assert answer.status_code < 500, answer.text
        assert str(answer.status_code) in described, answer.text
        case.validate_response(answer, checks=CONFORMS)
        if answer.status_code >= 400:
            assert answer.json()["error"]["message"]

    check()
