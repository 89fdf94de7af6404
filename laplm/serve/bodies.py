"""A request's body: read within a limit and a time, and unpacked where it comes as gzip."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping

from starlette.types import Receive

from laplm.serve.problems import ApiError

_MAX_DROPPED = 1 << 30  # bytes of a body that is too large
_GZIP = 31  # zlib's number for its largest window with gzip's header and checksum


async def read_body(
    receive: Receive, headers: Mapping[bytes, str], *, max_bytes: int, seconds: float
) -> bytes:
    """The whole body.

    Args:
        receive: the request's ASGI channel.
        headers: the request's, with lower-case names.
        max_bytes: as it comes and, of a packed one, as it is then.
        seconds: for all of it to come in.

    Raises:
        ApiError: it is too large (413), too slow (408), damaged (400), or not JSON or packed in
            another way than gzip (415).
    """
    length = headers.get(b"content-length", "0")
    announced = length.isdigit() and int(length) > max_bytes
    # Who waits to be told to send need not send it.
    if announced and headers.get(b"expect", "").lower() == "100-continue":
        raise _too_large(max_bytes)
    body, count = bytearray(), 0
    try:
        async with asyncio.timeout(seconds):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ApiError(400, "the request ended before its body")
                piece = message.get("body", b"")
                count += len(piece)
                # The rest is read and dropped: a client that still sends would not read why.
                if count <= max_bytes and not announced:
                    body += piece
                if count > _MAX_DROPPED:
                    raise _too_large(max_bytes)
                more = message.get("more_body", False)
    except TimeoutError:
        raise ApiError(
            408,
            f"the body did not come within {seconds:g} s; send it faster",
            headers={"Connection": "close"},
        ) from None
    if announced or count > max_bytes:
        raise _too_large(max_bytes)
    kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
    if body and kind != "application/json":
        # Other kinds could be sent by a form of any site, with no check by the browser.
        raise ApiError(415, "send JSON, with the header Content-Type: application/json")
    encoding = headers.get(b"content-encoding", "").strip().lower()
    if not body or encoding in ("", "identity"):
        return bytes(body)
    if encoding not in ("gzip", "x-gzip"):
        raise ApiError(
            415,
            f"bodies packed as {encoding[:40]!r} are not read; send it as it is, or as gzip",
            headers={"Accept-Encoding": "gzip"},
        )
    return await asyncio.to_thread(_unpack, bytes(body), max_bytes)


def _unpack(body: bytes, max_bytes: int) -> bytes:
    """What a gzip body holds. A few bytes can stand for gigabytes, so it stops at the limit."""
    inflate = zlib.decompressobj(_GZIP)
    try:
        out = inflate.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise ApiError(400, f"the body is not gzip ({error}); pack it again") from None
    if len(out) > max_bytes:
        raise _too_large(max_bytes)
    if not inflate.eof:
        raise ApiError(400, "the gzip body ends in its middle; send all of it")
    if inflate.unused_data:
        raise ApiError(400, "something follows the gzip body; send one gzip stream")
    return out


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(
        413,
        f"the body is larger than {max_bytes / 2**20:g} MiB; send less",
        code="too_large",
        headers={"Connection": "close"},
    )
