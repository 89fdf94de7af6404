"""GGUF files by the byte: a good one, and others that are changed by their structure."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from tests.fuzz import mutate

_CODES = {bool: "?", int: "<I", float: "<f"}
_KINDS = {bool: 7, int: 4, float: 6, str: 8, list: 9}
_TYPES = (0, 1, 2, 3, 6, 7, 8, 9, 10, 12, 14, 15, 20, 24, 27, 28, 30, 39, 99, 1 << 31)


@dataclass
class Tensor:
    """One tensor: what the table says of it, and its bytes."""

    name: str
    dims: list[int]
    kind: int
    data: bytes
    offset: int | None = None  # None: where it lies


def good_tables(
    config: dict[str, int], tokens: list[str], merges: list[str]
) -> tuple[dict[str, Any], list[Tensor]]:
    """A small Llama with a tokenizer and a chat template."""
    c, layers, inner = config["n_embd"], config["n_layer"], 4 * config["n_embd"]
    settings: dict[str, Any] = {
        "general.architecture": "llama", "general.name": "small", "llama.block_count": layers,
        "llama.context_length": 32, "llama.embedding_length": c, "llama.vocab_size": len(tokens),
        "llama.feed_forward_length": inner, "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 1, "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10_000.0, "llama.rope.dimension_count": c // 2,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": [1] * (len(tokens) - 1) + [3],
        "tokenizer.ggml.scores": [0.0] * len(tokens),
        "tokenizer.ggml.bos_token_id": len(tokens) - 1,
        "tokenizer.ggml.eos_token_id": len(tokens) - 1, "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": "{% for m in messages %}{{ m['content'] }}\n{% endfor %}",
    }  # fmt: skip
    rng = np.random.default_rng(0)

    def plain(name: str, *shape: int) -> Tensor:
        array = rng.normal(0, 0.1, shape).astype(np.float32)
        return Tensor(name, list(shape[::-1]), 0, array.tobytes())

    def quantised(name: str, *shape: int) -> Tensor:
        blocks = np.zeros((shape[0], shape[1] // 32, 18), np.uint8)
        blocks[..., :2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
        blocks[..., 2:] = rng.integers(0, 256, blocks[..., 2:].shape)
        return Tensor(name, list(shape[::-1]), 2, blocks.tobytes())

    tensors = [plain("token_embd.weight", len(tokens), c), plain("output_norm.weight", c)]
    for i in range(layers):
        b = f"blk.{i}"
        tensors += [
            plain(f"{b}.attn_norm.weight", c), plain(f"{b}.ffn_norm.weight", c),
            quantised(f"{b}.attn_q.weight", c, c), plain(f"{b}.attn_k.weight", c // 2, c),
            plain(f"{b}.attn_v.weight", c // 2, c), quantised(f"{b}.attn_output.weight", c, c),
            quantised(f"{b}.ffn_gate.weight", inner, c), plain(f"{b}.ffn_up.weight", inner, c),
            quantised(f"{b}.ffn_down.weight", c, inner),
        ]  # fmt: skip
    return settings, tensors


def mutated_gguf(rng: Random, settings: dict[str, Any], tensors: list[Tensor]) -> bytes:
    """A file of which one to three things are not as they should be."""
    settings = dict(settings)
    tensors = [Tensor(t.name, list(t.dims), t.kind, t.data) for t in tensors]
    counts, version = [len(tensors), len(settings)], 3
    for _ in range(rng.choice((1, 1, 2, 3))):
        kind, tensor = rng.randrange(9), rng.choice(tensors)
        key = rng.choice(sorted(settings))
        if kind == 0:
            del settings[key]
        elif kind in (1, 2):
            settings[key] = _odd(rng, settings[key])
        elif kind == 3:
            tensor.kind = rng.choice(_TYPES)
        elif kind == 4:
            tensor.dims = rng.choice(
                (
                    [],
                    tensor.dims[::-1],
                    [*tensor.dims, 1],
                    [0],
                    [1 << 40] * 2,
                    [1 << 63, 2],
                    [1] * 9,
                )
            )
        elif kind == 5:
            tensor.offset = rng.choice((0, 32, 33, 1 << 20, 1 << 62, (1 << 64) - 32))
        elif kind == 6:
            tensor.name = rng.choice((*mutate.ODD_STRINGS, rng.choice(tensors).name))
        elif kind == 7:
            counts[rng.randrange(2)] += rng.choice((-1, 1, 1000, 1 << 62))
        else:
            version = rng.choice((0, 1, 2, 4, 3 << 24, 1 << 31))
    raw = to_bytes(settings, tensors, counts, version)
    return mutate.mutated_bytes(rng, raw) if rng.random() < 0.2 else raw


def _odd(rng: Random, value: Any) -> Any:
    if isinstance(value, list) and value and rng.random() < 0.7:
        value = list(value)
        at = rng.randrange(len(value))
        value[at] = rng.choice((value[0], *mutate.ODD_STRINGS)) if value[0] == "!" else value[at]
        return rng.choice((value, value[:at], value * 2, []))
    numbers = (0, 1, 3, 7, 255, (1 << 32) - 1, 0.0, -1.0, float("nan"), 1e30, True)
    return rng.choice((*numbers, [], [1], [1, 2], ["a"], *mutate.ODD_STRINGS))


def _text(value: str) -> bytes:
    raw = value.encode("utf-8", errors="surrogatepass")
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        kind = _KINDS[type(value[0])] if value else 4
        return struct.pack("<IQ", kind, len(value)) + b"".join(map(_value, value))
    return struct.pack(_CODES[type(value)], value)


def to_bytes(
    settings: dict[str, Any], tensors: list[Tensor], counts: list[int], version: int
) -> bytes:
    """A file; ``counts`` of tensors and settings may be other than those that follow."""
    head = b"GGUF" + struct.pack("<IQQ", version, *(max(0, count) for count in counts))
    for key, value in settings.items():
        head += _text(key) + struct.pack("<I", _KINDS[type(value)]) + _value(value)
    data = b""
    for t in tensors:
        place = len(data) if t.offset is None else t.offset
        head += _text(t.name) + struct.pack(f"<I{len(t.dims)}Q", len(t.dims), *t.dims)
        head += struct.pack("<IQ", t.kind, place)
        data += t.data + bytes(-len(t.data) % 32)
    return head + bytes(-len(head) % 32) + data
