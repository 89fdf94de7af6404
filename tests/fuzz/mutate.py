"""Changes to good inputs: of bytes, of JSON by its structure, of lines, of safetensors headers."""

from __future__ import annotations

import json
from random import Random
from typing import Any

ODD_STRINGS = (
    "", " ", "\x00", "\x1b[2J\x1b]0;title\x07", "../../../etc/passwd", "/dev/zero", "a" * 300,
    "\ud800", "\u202e", "NaN", "-1", "1e999", "None", "\U0001f642" * 40, "(a+)+$", "{{ 1 / 0 }}",
    "{% for x in range(10**9) %}{% endfor %}", "%s%n", "con", "h.0.attn.c_attn.weight",
    "<|endoftext|>",
)  # fmt: skip
ODD_NUMBERS = (
    0, 1, -1, 2, 7, 255, 1 << 15, 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 53, (1 << 63) - 1, 1 << 63,
    1 << 64, -(1 << 63), 10**30, 10**400, 0.5, -0.0, 1e-300, 1e308, float("nan"), float("inf"),
    float("-inf"),
)  # fmt: skip
MAGIC = (b"\x00" * 8, b"\xff" * 8, b"PK\x03\x04", b"\x80\x04", b"\xef\xbb\xbf", b"{", b"[" * 2000,
         b"\r\n", b'"', b"\\u0000", b"1" * 5000)  # fmt: skip


# Python writes about a thousand values in each other; odd values are put in no deeper than this.
_DEEPEST_PLACE = 20


def odd_value(rng: Random, deepest: int = 900) -> Any:
    """Some value that a careful reader does not expect: nested so often, at most."""
    kind = rng.randrange(6)
    if kind == 0:
        return rng.choice(ODD_STRINGS)
    if kind in (1, 2):
        return rng.choice(ODD_NUMBERS)
    if kind == 3:
        return rng.choice((None, True, False))
    if kind == 4:
        return rng.choice(([], {}, [[]], [None], {"": None}, [0] * 50, {"a": {"b": []}}))
    deep: Any = 0
    for _ in range(rng.choice((3, 60, deepest))):
        deep = [deep] if rng.random() < 0.5 else {"a": deep}
    return deep


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if len(path) > _DEEPEST_PLACE:
        return found
    if isinstance(value, dict):
        for key, part in list(value.items())[:400]:
            found += _places(part, (*path, key))
    elif isinstance(value, list):
        for i, part in enumerate(value[:40]):
            found += _places(part, (*path, i))
    return found


def mutated_value(rng: Random, value: Any) -> Any:
    """A copy of a JSON value with one to three parts replaced, removed, added or doubled."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        # Near the top half of the time: there are the settings, and below often long tables.
        places = [p for p in _places(value) if p]
        near = [p for p in places if len(p) <= 2]
        if not places:
            return odd_value(rng)
        *parents, key = rng.choice(near if near and rng.random() < 0.5 else places)
        holder = value
        for step in parents:
            holder = holder[step]
        kind = rng.randrange(5)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice(ODD_STRINGS)] = holder[key]
        elif kind == 2 and isinstance(holder, list):
            holder += [holder[key]] * rng.choice((1, 50))
        elif kind == 3 and isinstance(holder[key], int | float):
            holder[key] = rng.choice((-holder[key], holder[key] + 1, holder[key] * 2, -1, 0, 1))
        else:
            holder[key] = odd_value(rng)
    return value


def as_json(rng: Random, value: Any) -> bytes:
    """JSON text, which now and then is not quite that any more."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.8)
    raw = text.encode("utf-8", errors="surrogatepass")
    return mutated_bytes(rng, raw) if rng.random() < 0.1 else raw


def mutated_json(rng: Random, raw: bytes) -> bytes:
    """A JSON document changed by its structure, or as the bytes that it is."""
    if rng.random() < 0.2:
        return mutated_bytes(rng, raw)
    return as_json(rng, mutated_value(rng, json.loads(raw)))


def mutated_bytes(rng: Random, raw: bytes) -> bytes:
    """Bytes with some flipped, cut, doubled, moved or put in."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(data) + 1)
        if rng.random() < 0.5:
            at = min(at, rng.randrange(200))  # headers stand in front
        size = rng.choice((1, 2, 8, 64, 1000))
        kind = rng.randrange(7)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            del data[at : at + size]
        elif kind == 3:
            data[at:at] = data[at : at + size]
        elif kind == 4:
            data[at:at] = rng.choice(MAGIC)
        elif kind == 5:
            data[at : at + size] = rng.randbytes(size)
        else:
            data += rng.randbytes(size)
    return bytes(data)


def mutated_safetensors(rng: Random, raw: bytes) -> bytes:
    """A safetensors file with another header (of the right length), other data, or damaged."""
    if rng.random() < 0.25:
        return mutated_bytes(rng, raw)
    size = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + size]), raw[8 + size :]
    kind = rng.randrange(5)
    if kind == 0:  # values that are no numbers
        at = rng.randrange(max(1, len(data) - 4))
        data = data[:at] + rng.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f")) + data[at + 4 :]
    elif kind == 1:
        name = rng.choice([n for n in header if n != "__metadata__"])
        header[name]["dtype"] = rng.choice(
            ("F64", "F16", "BF16", "I64", "I32", "I8", "U8", "BOOL", "F8_E4M3", "F4", "C64", "", 5)
        )
    elif kind == 2:
        name = rng.choice([n for n in header if n != "__metadata__"])
        shape = header[name]["shape"]
        header[name]["shape"] = rng.choice(([], shape[::-1], [*shape, 1], [0], [1 << 40], [-1]))
    else:
        header = mutated_value(rng, header)
    text = as_json(rng, header)
    told = len(text) if rng.random() < 0.9 else rng.choice((0, 1, len(text) * 2, (1 << 64) - 1))
    return told.to_bytes(8, "little") + text + data


def mutated_text(rng: Random, raw: bytes) -> bytes:
    """Lines left out, doubled, cut or exchanged, or odd ones put in."""
    if rng.random() < 0.3:
        return mutated_bytes(rng, raw)
    lines = raw.split(b"\n")
    for _ in range(rng.choice((1, 2, 5))):
        at = rng.randrange(len(lines))
        kind = rng.randrange(5)
        if kind == 0:
            lines[at] = mutated_bytes(rng, lines[at])
        elif kind == 1:
            lines.insert(at, rng.choice(ODD_STRINGS).encode("utf-8", errors="surrogatepass"))
        elif kind == 2:
            lines.insert(at, lines[rng.randrange(len(lines))])
        elif kind == 3 and len(lines) > 1:
            del lines[at]
        else:
            lines[at] = lines[at].replace(*rng.choice(((b",", b";"), (b'"', b""), (b" ", b"\t"))))
    return b"\n".join(lines)
