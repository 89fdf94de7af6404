"""The application: what it answers with, the page's files, and how it stops."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

import laplm
from laplm.serve import models
from laplm.serve.app import ServerOptions, make_app
from laplm.serve.security import AccessPolicy

WEB = Path(laplm.__file__).parent / "web"


@pytest.fixture(scope="module")
def client(tiny_model_dir: Path) -> Iterator[TestClient]:
    app, _ = make_app(ServerOptions({"tiny": str(tiny_model_dir)}, "tiny"))
    with TestClient(app, base_url="http://localhost") as client:
        yield client


def test_the_page_and_all_that_it_names_are_files_of_the_package(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert page.content == (WEB / "index.html").read_bytes()
    named = re.findall(r'(?:src|href)="/?(assets/[^"]+)"', page.text)
    assert len(named) >= 2
    kinds = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    for name in named:
        answer = client.get(f"/{name}")
        assert answer.content == (WEB / name).read_bytes(), name
        assert answer.headers["content-type"].startswith(kinds[name.rpartition(".")[2]]), name
        assert answer.headers["cache-control"] == "no-cache", "a newer laplm has a newer page"


@pytest.mark.parametrize("name", ["nothing.js", "", ".", "..%2f..%2ferrors.py", "%00", "a" * 999])
def test_what_is_no_file_of_the_page_is_not_found(client: TestClient, name: str) -> None:
    answer = client.get(f"/assets/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"]


def test_every_part_has_its_routes(client: TestClient) -> None:
    paths = set(client.get("/openapi.json").json()["paths"])
    assert {
        "/v1/completions", "/v1/chat/completions", "/v1/models", "/api/models", "/api/look",
        "/api/tune", "/healthz", "/metrics",
    } <= paths  # fmt: skip
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/docs").status_code == 404, "its page would load scripts from outside"
    counted = client.get("/metrics")
    assert counted.headers["content-type"].startswith("text/plain")
    assert "/healthz" in counted.text


def test_a_server_that_stops_takes_nothing_new(tiny_model_dir: Path) -> None:
    policy = AccessPolicy()
    app, _ = make_app(ServerOptions({"tiny": str(tiny_model_dir)}, "tiny", policy=policy))
    with TestClient(app, base_url="http://localhost") as client:
        assert client.get("/v1/models").status_code == 200
        policy.stopping.set()
        answer = client.get("/v1/models")
    assert answer.status_code == 503
    assert answer.headers["connection"] == "close"
    assert "stopping" in answer.json()["error"]["message"]


def test_a_fault_of_ours_has_the_shape_of_every_error(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: models.ModelRegistry) -> dict[str, str]:
        raise RuntimeError("a secret")

    monkeypatch.setattr(models.ModelRegistry, "names", broken)
    app, _ = make_app(ServerOptions({"tiny": str(tiny_model_dir)}, "tiny"))
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        answered = client.get("/v1/models")
    assert answered.status_code == 500
    assert answered.json()["error"]["type"] == "server_error"
    assert "secret" not in answered.text
