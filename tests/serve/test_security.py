"""Who may ask: keys, hosts, origins, and how much may be sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from laplm.serve.app import Options, make_app
from laplm.serve.security import Guard

KEY = "correct horse"


@pytest.fixture(scope="module")
def client(tiny_model_dir: Path) -> Iterator[TestClient]:
    guard = Guard(key=KEY, origins=frozenset({"https://friend.example"}), body_bytes=1000)
    app, _ = make_app(Options({"tiny": str(tiny_model_dir)}, "tiny", guard=guard))
    with TestClient(app, base_url="http://localhost", follow_redirects=False) as client:
        yield client


@pytest.mark.parametrize(
    "path", ["/v1/models", "/api/models", "/api/look", "/metrics", "/openapi.json"]
)
def test_every_route_wants_the_key(client: TestClient, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "laplm_key=wrong"}):
        answer = client.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
    assert client.get(path, headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


def test_health_wants_no_key(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}


def test_the_page_gets_a_cookie_for_the_key(client: TestClient) -> None:
    answer = client.get("/", params={"key": KEY})
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert KEY not in cookie
    given = {"Cookie": cookie.partition(";")[0]}
    assert client.get("/v1/models", headers=given).status_code == 200
    client.cookies.clear()
    assert client.get("/", params={"key": "wrong"}).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "127.0.0.1:8080"}, 200),
        ({"Host": "[::1]:8080"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost"}, 200),
        ({"Origin": "https://friend.example"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_foreign_hosts_and_pages_are_refused(
    client: TestClient, headers: dict[str, str], status: int
) -> None:
    answer = client.get("/v1/models", headers={"Authorization": f"Bearer {KEY}", **headers})
    assert answer.status_code == status


def test_a_friendly_page_may_ask(client: TestClient) -> None:
    asked = client.options("/v1/completions", headers={"Origin": "https://friend.example"})
    assert asked.status_code == 204
    assert asked.headers["access-control-allow-origin"] == "https://friend.example"


def test_a_body_that_is_too_large_or_no_json_is_refused(client: TestClient) -> None:
    allowed = {"Authorization": f"Bearer {KEY}"}
    big = client.post("/v1/completions", json={"prompt": "a" * 2000}, headers=allowed)
    assert big.status_code == 413
    form = client.post("/v1/completions", data={"prompt": "a"}, headers=allowed)
    assert form.status_code == 415
    headers = allowed | {"Content-Type": "application/json"}
    broken = client.post("/v1/completions", content=b"{", headers=headers)
    assert broken.status_code == 400
    assert "JSON" in broken.json()["error"]["message"]


def test_every_answer_forbids_what_a_page_should_not_do(client: TestClient) -> None:
    headers = client.get("/healthz").headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
