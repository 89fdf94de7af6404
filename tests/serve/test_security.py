"""Who may ask: keys, hosts, origins, and how much may be sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from laplm.serve.app import ServerOptions, make_app
from laplm.serve.security import AccessPolicy

KEY = "correct horse"
ALLOWED = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def client(tiny_model_dir: Path) -> Iterator[TestClient]:
    policy = AccessPolicy(key=KEY, origins=frozenset({"https://friend.example"}), body_bytes=1000)
    app, _ = make_app(ServerOptions({"tiny": str(tiny_model_dir)}, "tiny", policy=policy))
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
        ({"Host": "evillocalhost"}, 403),
        ({"Host": "localhost.:8080"}, 403),
        ({"Host": "10.0.0.1"}, 403),
        ({"Host": "0.0.0.0:8080"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "LOCALHOST:8080"}, 200),
        ({"Host": "127.0.0.1:8080"}, 200),
        ({"Host": "[::1]:8080"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:8081", "Host": "localhost:8080"}, 403),
        ({"Origin": "http://localhost:8080", "Host": "localhost:8080"}, 200),
        ({"Origin": "http://localhost", "Host": "localhost:8080"}, 403),
        ({"Origin": "ftp://localhost"}, 403),
        ({"Origin": "https://friend.example:444"}, 403),
        ({"Origin": "http://friend.example"}, 403),
        ({"Origin": "http://localhost"}, 200),
        ({"Origin": "https://friend.example"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),
    ],
)
def test_foreign_hosts_and_pages_are_refused(
    client: TestClient, headers: dict[str, str], status: int
) -> None:
    answer = client.get("/v1/models", headers={"Authorization": f"Bearer {KEY}", **headers})
    assert answer.status_code == status


def test_a_link_on_another_site_may_open_a_page_but_send_nothing(client: TestClient) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    answer = client.post("/v1/completions", json={"prompt": "a"}, headers=ALLOWED | link)
    assert answer.status_code == 403


# What the openai package of npm puts beside the key (browsers ask for all of them at once).
OF_OPENAI_NPM = (
    "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-os,"
    "x-stainless-package-version,x-stainless-retry-count,x-stainless-runtime,"
    "x-stainless-runtime-version,x-stainless-timeout,x-stainless-helper-method"
)


def test_a_friendly_page_may_ask_with_every_header_that_it_has(client: TestClient) -> None:
    friend = {"Origin": "https://friend.example"}
    asked = client.options("/v1/completions", headers=friend | {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": OF_OPENAI_NPM,
        "Access-Control-Request-Private-Network": "true",
    })  # fmt: skip
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == "https://friend.example"
    assert asked.headers["access-control-allow-private-network"] == "true"
    allowed = asked.headers["access-control-allow-headers"].split(",")
    assert set(OF_OPENAI_NPM.split(",")) <= {name.strip().lower() for name in allowed}
    methods = asked.headers["access-control-allow-methods"].split(", ")
    assert {"GET", "POST", "DELETE"} <= set(methods)
    # The answer itself, and one that says no, may be read by the page too.
    for headers, status in ((ALLOWED, 200), ({}, 401)):
        answer = client.get("/v1/models", headers=friend | headers)
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == "https://friend.example"
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
        assert "Origin" in answer.headers["vary"]


def test_nobody_else_is_told_that_they_may_read(client: TestClient) -> None:
    for origin in ("http://evil.example", "http://localhost"):
        asked = client.options("/v1/completions", headers={
            "Origin": origin, "Access-Control-Request-Method": "POST",
        })  # fmt: skip
        assert asked.status_code in (401, 403)
        answer = client.get("/v1/models", headers=ALLOWED | {"Origin": origin})
        for each in (asked, answer):
            assert "access-control-allow-origin" not in each.headers


@pytest.mark.parametrize(
    "value",
    [
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY[:-1]}X",
        f"Bearer {KEY}x",
        f"Bearer {KEY.upper()}",
        f"Basic {KEY}",
        KEY,
        "Bearer ",
    ],
)
def test_a_key_must_be_right_to_its_last_character(client: TestClient, value: str) -> None:
    assert client.get("/v1/models", headers={"Authorization": value}).status_code == 401
    assert client.get("/v1/models", headers={"Authorization": f"bearer  {KEY}"}).status_code == 200


def test_a_cookie_must_be_right_to_its_last_character(client: TestClient) -> None:
    right = AccessPolicy(key=KEY).cookie()
    assert AccessPolicy(key=KEY + "x").cookie() != right
    for cookie, status in ((right, 200), (right[:-1], 401), (right[:-1] + "g", 401), (KEY, 401)):
        answer = client.get("/v1/models", headers={"Cookie": f"laplm_key={cookie}"})
        assert answer.status_code == status


def test_what_is_named_at_the_start_is_a_host_of_ours() -> None:
    named, away = AccessPolicy(names=frozenset({"box.local"})), AccessPolicy(anywhere=True)
    assert named.host_is_ours("box.local:8080")
    assert not named.host_is_ours("xbox.local")
    assert not named.host_is_ours("10.0.0.1")
    assert away.host_is_ours("10.0.0.1:80")
    assert not away.host_is_ours("evil.example")


def test_an_answer_has_the_id_of_its_request(client: TestClient) -> None:
    named = client.get("/healthz", headers={"X-Request-ID": "mine-1"})
    assert named.headers["x-request-id"] == "mine-1"
    refused = client.get("/v1/models", headers={"X-Request-ID": "mine-2"})
    assert (refused.status_code, refused.headers["x-request-id"]) == (401, "mine-2")
    made = [client.get("/healthz").headers["x-request-id"] for _ in range(2)]
    assert made[0] != made[1]
    assert all(id_.startswith("req_") for id_ in made)
    for odd in ("two words", "a" * 129, "tab\there"):
        answer = client.get("/healthz", headers={"X-Request-ID": odd})
        assert answer.headers["x-request-id"].startswith("req_")


def test_a_body_that_is_too_large_or_no_json_is_refused(client: TestClient) -> None:
    allowed = {"Authorization": f"Bearer {KEY}"}
    big = client.post("/v1/completions", json={"prompt": "a" * 2000}, headers=allowed)
    assert big.status_code == 413
    chunks = (b"a" * 100 for _ in range(11))  # chunked: nobody knows its length
    headers = allowed | {"Content-Type": "application/json"}
    endless = client.post("/v1/completions", content=chunks, headers=headers)
    assert endless.status_code == 413
    form = client.post("/v1/completions", data={"prompt": "a"}, headers=allowed)
    assert form.status_code == 415
    broken = client.post("/v1/completions", content=b"{", headers=headers)
    assert broken.status_code == 400
    assert "JSON" in broken.json()["error"]["message"]


def test_every_answer_forbids_what_a_page_should_not_do(client: TestClient) -> None:
    headers = client.get("/healthz").headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_a_text_to_learn_from_may_be_larger_than_a_prompt(client: TestClient) -> None:
    body = {"name": "", "content": "a" * 3000}  # without a name it is not kept
    assert client.post("/api/tune/", json=body, headers=ALLOWED).status_code == 400
    assert client.post("/api/look/next", json=body, headers=ALLOWED).status_code == 413
