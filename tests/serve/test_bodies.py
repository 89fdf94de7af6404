"""Bodies: how large, how fast, and packed how."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from typing import Any

import pytest

from laplm.serve.bodies import read_body
from laplm.serve.problems import ApiError

JSON = {b"content-type": "application/json"}
GZIP = JSON | {b"content-encoding": "gzip"}
MAX = 1000


def read(pieces: list[bytes], headers: dict[bytes, str], max_bytes: int = MAX) -> bytes:
    """What ``read_body`` makes of a body that comes in pieces."""
    coming = [
        {"type": "http.request", "body": piece, "more_body": i + 1 < len(pieces)}
        for i, piece in enumerate(pieces)
    ]

    async def receive() -> Any:
        return coming.pop(0)

    return asyncio.run(read_body(receive, headers, max_bytes=max_bytes, seconds=30))


def refused(pieces: list[bytes], headers: dict[bytes, str]) -> ApiError:
    with pytest.raises(ApiError) as error:
        read(pieces, headers)
    return error.value


def test_a_body_comes_whole_up_to_the_limit() -> None:
    assert read([b"[1,", b"2]"], JSON) == b"[1,2]"
    assert read([b"a" * MAX], JSON) == b"a" * MAX
    assert read([b"a" * 600, b"a" * 400], JSON) == b"a" * MAX


@pytest.mark.parametrize("pieces", [[b"a" * (MAX + 1)], [b"a" * 600, b"a" * 401], [b"a"] * 1001])
def test_a_body_over_the_limit_without_a_length_is_too_large(pieces: list[bytes]) -> None:
    assert refused(pieces, JSON).status == 413


def test_a_length_over_the_limit_is_enough() -> None:
    assert refused([b"{}"], JSON | {b"content-length": "1001"}).status == 413
    assert read([b"{}"], JSON | {b"content-length": "1000"}) == b"{}"


def test_a_gzip_body_is_read() -> None:
    body = json.dumps({"prompt": "a" * 900}).encode()
    packed = gzip.compress(body, mtime=0)
    assert len(packed) < 100
    for headers in (GZIP, JSON | {b"content-encoding": " X-GZIP "}):
        assert read([packed[:30], packed[30:]], headers) == body
    assert read([b"a"], JSON | {b"content-encoding": "identity"}) == b"a"


def test_a_gzip_body_may_be_as_large_as_another() -> None:
    assert len(read([gzip.compress(b"a" * MAX, mtime=0)], GZIP)) == MAX
    assert refused([gzip.compress(b"a" * (MAX + 1))], GZIP).status == 413


def test_a_gzip_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = gzip.compress(b"\0" * (64 << 20))
    asked: list[int] = []

    class Counted:
        def __init__(self, wbits: int) -> None:
            self._inflate = zlib.decompressobj(wbits)

        def decompress(self, data: bytes, max_length: int = 0) -> bytes:
            out = self._inflate.decompress(data, max_length)
            asked.append(len(out))
            return out

        @property
        def eof(self) -> bool:
            return self._inflate.eof

        @property
        def unused_data(self) -> bytes:
            return self._inflate.unused_data

    with monkeypatch.context() as patch:
        patch.setattr("laplm.serve.bodies.zlib", type("Zlib", (), {
            "decompressobj": Counted, "error": zlib.error,
        }))  # fmt: skip
        with pytest.raises(ApiError) as error:
            read([bomb], GZIP, max_bytes=100_000)
    assert error.value.status == 413
    assert sum(asked) <= 100_001


@pytest.mark.parametrize(
    "packed",
    [
        b"not gzip at all",
        gzip.compress(b"{}", mtime=0)[:-9],  # cut short
        gzip.compress(b"{}", mtime=0)[:-1] + b"x",  # another checksum
        gzip.compress(b"{}", mtime=0) + b"more",
        zlib.compress(b"{}"),
    ],
)
def test_a_damaged_gzip_body_is_said_to_be_one(packed: bytes) -> None:
    error = refused([packed], GZIP)
    assert error.status == 400
    assert "gzip" in str(error)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "deflate", "nonsense"])
def test_a_body_packed_otherwise_is_told_what_is_read(encoding: str) -> None:
    error = refused([b"abc"], JSON | {b"content-encoding": encoding})
    assert error.status == 415
    assert "gzip" in str(error)
    assert error.headers == {"Accept-Encoding": "gzip"}


def test_only_json_is_taken() -> None:
    assert refused([b"a=b"], {b"content-type": "application/x-www-form-urlencoded"}).status == 415
    assert refused([b"{}"], {}).status == 415
    assert read([b"{}"], {b"content-type": "Application/JSON; charset=utf-8"}) == b"{}"
    assert read([b""], {}) == b""
