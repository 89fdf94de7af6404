"""Write a model directory of a named shape with generated weights, for timing and memory.

    python benchmarks/make_model.py gpt2 DIR
    python benchmarks/make_model.py llama3.2-1b DIR --dtype fp16

How fast a model runs does not depend on what its weights say, so the benchmarks need no
download. The weights have GPT-2's initial scale, the biases and norms are not trivial, and the
tokenizer is a byte-level BPE of exactly as many tokens as the model has, which transformers and
laplm both load. One tensor at a time is in memory, whatever the size.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

if __name__ == "__main__":  # run from a checkout without installing it
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from laplm.model.config import ModelConfig
from laplm.model.families import config_to_hf, family_of, tensor_specs
from laplm.model.shapes import SHAPES
from laplm.model.tensors import NORMS, TensorSpec

DTYPES = {"fp32": ("F32", np.float32), "fp16": ("F16", np.float16)}
END_OF_TEXT = "<|endoftext|>"
ROWS = 1 << 22  # values generated at a time: 16 MB as fp32

# The prompt of the talk becomes five tokens, as with GPT-2's own vocabulary.
TEXT = """The capital of Spain is Madrid. The capital of France is Paris. The capital of Italy is
Rome. Once upon a time there was a little girl who lived with her mother at the edge of a wood.
"""


def main() -> None:
    """Parse the command line and write the model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("size", choices=sorted(SHAPES))
    parser.add_argument("directory", type=Path)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="fp32")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    make_model(SHAPES[args.size], args.directory, dtype=args.dtype, seed=args.seed)
    print(f"{args.directory}: {args.size} shape, {args.dtype}, generated weights")


def make_model(config: ModelConfig, directory: Path, *, dtype: str = "fp32", seed: int = 0) -> Path:
    """Write ``config.json``, ``model.safetensors`` and the tokenizer files of one model.

    Args:
        config: the sizes; ``vocab_size`` must leave room for 256 bytes and the end-of-text token.
        directory: made when missing; files of the same names are replaced.
        dtype: ``"fp32"`` or ``"fp16"``, of the weights in the file.
        seed: same seed, same weights, whatever the dtype up to its rounding.

    Returns:
        The directory.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_tokenizer(directory, config.vocab_size)
    _write_weights(directory / "model.safetensors", config, dtype, seed)
    values = config_to_hf(config) | {"dtype": {"fp32": "float32", "fp16": "float16"}[dtype]}
    _write_text(directory / "config.json", json.dumps(values, indent=2) + "\n")
    return directory


def _write_weights(path: Path, config: ModelConfig, dtype: str, seed: int) -> None:
    # The safetensors layout: header length (8 bytes), header (JSON), then the raw tensors.
    tag, numpy_type = DTYPES[dtype]
    width = np.dtype(numpy_type).itemsize
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    specs = tensor_specs(config)
    offset = 0
    for name, spec in specs.items():
        end = offset + math.prod(spec.shape) * width
        key = family_of(config).HF_PREFIX + name if spec.hf_prefix else name
        header[key] = {"dtype": tag, "shape": list(spec.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for index, spec in enumerate(specs.values()):
                rng = np.random.default_rng([seed, index])
                for block in _values(spec, config, rng):
                    file.write(block.astype(numpy_type).tobytes())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _values(
    spec: TensorSpec, config: ModelConfig, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    # Radford et al. 2019, section 2.3: weights of residual layers are scaled by 1/sqrt(N).
    scale, shift = 0.02, 0.0
    if spec.role in NORMS:
        scale, shift = 0.1, 1.0 - config.norm_offset if spec.part == "weight" else 0.0
    elif spec.part == "bias":
        scale = 0.1
    elif spec.role in ("attn_out", "down"):
        scale /= math.sqrt(2 * config.n_layer)
    count = math.prod(spec.shape)
    for start in range(0, count, ROWS):
        size = min(ROWS, count - start)
        yield rng.standard_normal(size, dtype=np.float32) * np.float32(scale) + np.float32(shift)


def write_tokenizer(directory: Path, vocab_size: int) -> None:
    """Write a byte-level BPE with exactly ``vocab_size`` tokens and GPT-2's splitting rules.

    A few hundred merges are learned from a short text; the others are valid merges of letters
    that fill the vocabulary up. The last id is ``<|endoftext|>``, as in GPT-2.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocab: dict[str, int] = model["vocab"]
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    for left, right in _filling():
        if len(vocab) >= vocab_size - 1:
            break
        if left + right not in vocab:
            vocab[left + right] = len(vocab)
            merges.append((left, right))

    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, normalized=False)])
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(f"{vocab_size} tokens asked for, {tokenizer.get_vocab_size()} made")
    _write_text(directory / "tokenizer.json", tokenizer.to_str(pretty=False))
    vocab[END_OF_TEXT] = vocab_size - 1
    _write_text(directory / "vocab.json", json.dumps(vocab, ensure_ascii=False))
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    _write_text(directory / "merges.txt", "\n".join(lines) + "\n")
    settings = {
        "tokenizer_class": "GPT2Tokenizer",
        "add_prefix_space": False,
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
    }
    _write_text(directory / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")


def _filling() -> Iterator[tuple[str, str]]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    pairs = ["".join(p) for p in itertools.product(letters, repeat=2)]
    yield from itertools.product(letters, repeat=2)
    yield from itertools.product(pairs, letters)
    yield from itertools.product(pairs, pairs)


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
