"""What hostile and broken clients send: each gets a status and a body that says what to do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Running, started

from laplm.serve.security import AccessPolicy, SecurityMiddleware

GET = b"GET /v1/models HTTP/1.1\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
END = b"Connection: close\r\n\r\n"


def with_body(body: bytes) -> bytes:
    return POST + b"Content-Length: %d\r\n" % len(body) + END + body


RAW: dict[str, tuple[bytes, int]] = {
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 90, 400),
    "no words": (b"HELLO\r\n\r\n", 400),
    "no host": (GET + END, 400),
    "two hosts": (GET + b"Host: localhost\r\nHost: evil.example\r\n" + END, 400),
    "foreign host": (GET + b"Host: evil.example\r\n" + END, 403),
    "host after a user": (GET + b"Host: evil.example@localhost\r\n" + END, 403),
    "half a host": (GET + b"Host: [::1\r\n" + END, 403),
    "foreign origin": (GET + b"Host: localhost\r\nOrigin: http://evil.example\r\n" + END, 403),
    "half an origin": (GET + b"Host: localhost\r\nOrigin: http://[::1\r\n" + END, 403),
    "negative length": (POST + b"Content-Length: -1\r\n\r\n{}", 400),
    "broken chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n", 400),
    "no json": (with_body(b"{"), 400),
    "deep json": (with_body(b"[" * 500_000), 400),
    "no utf-8": (with_body(b'{"prompt":"\xff\xfe"}'), 400),
    "no number": (with_body(b'{"prompt":"a","temperature":NaN}'), 400),
    "a number of 5000 digits": (with_body(b'{"prompt":"a","seed":1' + b"0" * 5000 + b"}"), 400),
    "a list": (with_body(b"[]"), 400),
    "half a character": (with_body(b'{"prompt":"\\ud800","max_tokens":2}'), 400),
    "a long prompt": (with_body(json.dumps({"prompt": "word " * 100_000}).encode()), 400),
    "a method": (b"PUT /v1/completions HTTP/1.1\r\nHost: localhost\r\n" + END, 405),
    "a way out": (b"GET /assets/../../errors.py HTTP/1.1\r\nHost: localhost\r\n" + END, 404),
    "no name": (b"GET /assets/%00 HTTP/1.1\r\nHost: localhost\r\n" + END, 404),
    "a long name": (b"GET /assets/" + b"a" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n" + END, 404),
}


@pytest.fixture(scope="module")
def server(tiny_model_dir: Path) -> Iterator[Running]:
    with started(f"tiny={tiny_model_dir}") as server:
        yield server


def connect(server: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.address.rpartition(":")[2])), 60)


def answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """The status and the error that comes back; the connection is closed after it."""
    got = b""
    while piece := connection.recv(1 << 16):
        got += piece
    head, _, body = got.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


@pytest.mark.parametrize("name", RAW)
def test_what_no_client_should_send_is_answered_with_what_to_do(server: Running, name: str) -> None:
    sent, status = RAW[name]
    with connect(server) as connection:
        connection.sendall(sent)
        found, error = answer(connection)
    assert found == status
    assert len(error["message"]) > 10
    assert "internal" not in error["message"]
    assert httpx.get(f"{server.address}/healthz").status_code == 200


def test_a_client_that_sends_too_much_reads_why(server: Running) -> None:
    with connect(server) as connection:
        connection.sendall(with_body(b"a" * (8 << 20)))  # all of it, before it reads
        status, error = answer(connection)
    assert (status, error["code"]) == (413, "too_large")
    with connect(server) as connection:  # who asks first is told before
        connection.sendall(POST + b"Expect: 100-continue\r\nContent-Length: 9999999\r\n\r\n")
        assert answer(connection)[0] == 413


def test_connections_that_stay_silent_stop_nobody(server: Running) -> None:
    with contextlib.ExitStack() as stack:
        for i in range(60):
            silent = stack.enter_context(connect(server))
            silent.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: loc"[: i * 2])
        body = {"prompt": "a", "max_tokens": 2}
        answered = httpx.post(f"{server.address}/v1/completions", json=body, timeout=60)
    assert answered.status_code == 200


def test_a_body_that_comes_too_slowly_is_told_so() -> None:
    async def unused(*_: Any) -> None:
        raise AssertionError

    async def never() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def scenario() -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"host", b"localhost"), (b"content-length", b"9")]
        scope = {
            "type": "http", "method": "POST", "path": "/v1/completions", "headers": headers,
            "query_string": b"",
        }  # fmt: skip
        await SecurityMiddleware(unused, AccessPolicy(body_seconds=0.02))(scope, never, send)
        return sent

    start, body = asyncio.run(scenario())
    assert start["status"] == 408
    assert (b"connection", b"close") in start["headers"]
    assert "faster" in json.loads(body["body"])["error"]["message"]


@pytest.mark.parametrize(
    ("prompt", "param", "said"),
    [
        ({"a": 1}, "prompt", "string, or: Input should be a valid list"),
        ([1, "a"], "prompt", "integer"),
        (1.5, "prompt", "valid string"),
    ],
)
def test_a_wrong_type_is_named_without_our_own_types(
    server: Running, prompt: Any, param: str, said: str
) -> None:
    answered = httpx.post(f"{server.address}/v1/completions", json={"prompt": prompt})
    error = answered.json()["error"]
    assert (answered.status_code, error["param"]) == (400, param)
    assert error["message"].startswith(f"{param}: ") and said in error["message"]
    assert "list[" not in error["message"]
