"""Addresses as clients write them, and HEAD."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from laplm.serve.addresses import canonical_path
from laplm.serve.app import ServerOptions, make_app
from laplm.serve.security import AccessPolicy

KEY = "correct horse"
ALLOWED = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def client(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    runs = tmp_path_factory.mktemp("runs")
    options = ServerOptions(
        {"tiny": str(tiny_model_dir)}, "tiny", policy=AccessPolicy(key=KEY), runs=runs
    )
    app, _ = make_app(options)
    with TestClient(app, base_url="http://localhost", follow_redirects=False) as client:
        yield client


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("/", "/"),
        ("//", "/"),
        ("/v1/models", "/v1/models"),
        ("/v1/models/", "/v1/models"),
        ("//v1///models//", "/v1/models"),
        ("/models", "/v1/models"),
        ("/models/org/name", "/v1/models/org/name"),
        ("/v1/models/models/x", "/v1/models/models/x"),
        ("/completions/", "/v1/completions"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/health", "/healthz"),
        ("/v1/health", "/healthz"),
        ("/modelsx", "/modelsx"),
    ],
)
def test_an_address_has_one_form(written: str, meant: str) -> None:
    assert canonical_path(written) == meant


@pytest.mark.parametrize("path", ["/models", "/v1/models/", "//v1//models", "/models/"])
def test_models_are_listed_at_every_spelling(client: TestClient, path: str) -> None:
    want = client.get("/v1/models", headers=ALLOWED).json()
    assert client.get(path, headers=ALLOWED).json() == want
    assert client.get("/models/tiny", headers=ALLOWED).json()["id"] == "tiny"


@pytest.mark.parametrize("path", ["/completions", "/v1/completions/", "/chat/completions"])
def test_no_spelling_goes_around_the_key(client: TestClient, path: str) -> None:
    assert client.post(path, json={"prompt": "a"}).status_code == 401
    assert client.get("/assets//..//models").status_code == 404


def test_a_completion_is_answered_without_v1(client: TestClient) -> None:
    body = {"prompt": "The", "max_tokens": 3, "seed": 1}
    want = client.post("/v1/completions", json=body, headers=ALLOWED).json()["choices"]
    for path in ("/completions", "/v1/completions/"):
        assert client.post(path, json=body, headers=ALLOWED).json()["choices"] == want


@pytest.mark.parametrize("path", ["/health", "/healthz", "/v1/health", "/health/"])
def test_health_is_told_without_a_key(client: TestClient, path: str) -> None:
    assert client.get(path).json() == {"status": "ok"}


@pytest.mark.parametrize("path", ["/", "/v1/models", "/healthz", "/metrics", "/models/nobody"])
def test_head_has_the_headers_of_get_and_no_body(client: TestClient, path: str) -> None:
    got, head = client.get(path, headers=ALLOWED), client.head(path, headers=ALLOWED)
    assert head.content == b""
    assert head.status_code == got.status_code
    for name in ("content-type", "x-content-type-options", "content-security-policy"):
        assert head.headers[name] == got.headers[name]
    if path != "/metrics":  # which counts the first of the two
        assert head.headers["content-length"] == got.headers["content-length"]


def test_head_wants_the_key_and_a_route_that_takes_get(client: TestClient) -> None:
    assert client.head("/v1/models").status_code == 401
    assert client.head("/v1/completions", headers=ALLOWED).status_code == 405
    assert client.post("/v1/models", json={}, headers=ALLOWED).status_code == 405


def test_head_of_a_stream_of_events_ends(client: TestClient) -> None:
    body = {"name": "a.txt", "content": "nothing to speak of"}
    made = client.post("/api/tune", json=body, headers=ALLOWED).json()
    head = client.head(f"/api/tune/{made['id']}/events", headers=ALLOWED)
    assert head.status_code == 200
    assert head.headers["content-type"].startswith("text/event-stream")
    assert head.content == b""
