"""Server-sent events, and clients that go away or read nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.requests import Request

from laplm.serve import streams
from laplm.serve.streams import EventStream, cancel_on_disconnect, event


async def stays() -> dict[str, Any]:
    """What is received of a client that sends nothing more, and does not go."""
    await asyncio.Event().wait()
    return {}


async def leaves() -> dict[str, Any]:
    """The same of one that has gone."""
    return {"type": "http.disconnect"}


def within(scenario: Any) -> Any:
    """What a coroutine gives, which may not wait for ever, nor end only because it is cancelled."""

    async def limited() -> Any:
        async with asyncio.timeout(20) as limit:
            found = await scenario
        assert not limit.expired()
        return found

    return asyncio.run(limited())


@pytest.mark.parametrize(
    ("data", "name", "sent"),
    [
        ({"n": 1}, None, b'data: {"n":1}\n\n'),
        ({"n": "é"}, "step", 'event: step\ndata: {"n":"é"}\n\n'.encode()),
        ("two\nlines", None, b'data: "two\\nlines"\n\n'),
    ],
)
def test_an_event_is_a_line_of_json_with_its_name_before_it(
    data: Any, name: str | None, sent: bytes
) -> None:
    assert event(data, name) == sent


def test_who_goes_away_lets_everything_go() -> None:
    released: list[str] = []
    sent: list[dict[str, Any]] = []

    async def events() -> AsyncGenerator[bytes]:
        try:
            yield event(1)
            await asyncio.Event().wait()
        finally:
            released.append("events")

    async def scenario() -> None:
        first = asyncio.Event()

        async def send(message: Any) -> None:
            sent.append(message)
            if message["type"] == "http.response.body":
                first.set()

        async def leaves_after_the_first() -> dict[str, Any]:
            await first.wait()
            return {"type": "http.disconnect"}

        held = contextlib.AsyncExitStack()
        held.callback(released.append, "model")
        await EventStream(events(), held)({"type": "http"}, leaves_after_the_first, send)

    within(scenario())
    assert released == ["events", "model"]
    assert [message.get("body") for message in sent] == [None, event(1)]
    headers = dict(sent[0]["headers"])
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert headers[b"cache-control"] == b"no-store" and b"content-length" not in headers


def test_work_goes_on_to_its_end_for_who_stays_and_is_told_of_who_goes() -> None:
    async def scenario(receive: Any) -> tuple[str, list[str]]:
        gone = asyncio.Event()
        told: list[str] = []

        def leave() -> None:
            told.append("gone")
            gone.set()

        async def work() -> str:
            await asyncio.sleep(0)
            if receive is leaves:
                await gone.wait()
                return "given up"
            return "done"

        request = Request({"type": "http"}, receive)
        return await cancel_on_disconnect(request, work(), leave), told

    assert within(scenario(stays)) == ("done", [])
    assert within(scenario(leaves)) == ("given up", ["gone"])


def test_a_stream_that_breaks_says_so_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sent: list[dict[str, Any]] = []

    async def scenario() -> None:
        async def events() -> AsyncGenerator[bytes]:
            yield event({"n": 1})
            raise RuntimeError("why")

        async def send(message: Any) -> None:
            sent.append(message)

        stream = EventStream(events(), contextlib.AsyncExitStack())
        await stream({"type": "http"}, stays, send)

    with caplog.at_level(logging.ERROR, "laplm.serve"):
        within(scenario())
    start, first, last, end = sent
    assert start["status"] == 200
    assert first["body"] == b'data: {"n":1}\n\n'
    assert json.loads(last["body"].removeprefix(b"data: "))["error"]["code"] == "internal"
    assert first["more_body"] and last["more_body"]
    assert end == {"type": "http.response.body", "body": b"", "more_body": False}
    assert "why" in str([record.exc_info for record in caplog.records])


def test_a_client_that_never_reads_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "STALLED_SECONDS", 0.02)
    released: list[str] = []

    async def scenario() -> None:
        async def events() -> AsyncGenerator[bytes]:
            try:
                yield b"data: 1\n\n"
            finally:
                released.append("events")

        async def stalled(message: Any) -> None:
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()

        held = contextlib.AsyncExitStack()
        held.callback(released.append, "model")
        await streams.EventStream(events(), held)({"type": "http"}, stays, stalled)

    within(scenario())
    assert released == ["events", "model"]
