"""Model directories as people have them: the small generated model with one thing changed."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from conftest import TEXT, make_model
from safetensors.numpy import load_file, save_file

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "  Who is <|im_end|> Sue?\n"},
    {"role": "assistant", "content": "A little girl, 7."},
    {"role": "user", "content": "naïve café 北京"},
]
SPARE = 4  # rows of the embedding beyond the tokens, for tokens that a kind adds

Files = dict[str, Any]
_KINDS: dict[str, Callable[[Files], None]] = {}


def _kind(change: Callable[[Files], None]) -> Callable[[Files], None]:
    _KINDS[change.__name__.lstrip("_")] = change
    return change


def _add(files: Files, *contents: str, special: bool = True) -> list[int]:
    tokens = files["tokenizer.json"]["added_tokens"]
    first = max(token["id"] for token in tokens) + 1
    for i, content in enumerate(contents):
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": not special}
        tokens.append({"id": first + i, "content": content, **flags, "special": special})
    return list(range(first, first + len(contents)))


@_kind
def plain(files: Files) -> None:
    """GPT-2's own, with rows of the embedding that no token has."""


@_kind
def chatml(files: Files) -> None:
    start, end = _add(files, "<|im_start|>", "<|im_end|>")
    files["config.json"] |= {"bos_token_id": start, "eos_token_id": end}
    files["tokenizer_config.json"] |= {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    files["chat_template.jinja"] = CHATML


@_kind
def named_templates(files: Files) -> None:
    chatml(files)
    files["tokenizer_config.json"]["chat_template"] = [
        {"name": "default", "template": files.pop("chat_template.jinja")},
        {"name": "tool_use", "template": "{{ tools | length }}"},
    ]


@_kind
def single_digits(files: Files) -> None:
    tokenizer = files["tokenizer.json"]
    steps = [{"type": "Digits", "individual_digits": True}, tokenizer["pre_tokenizer"]]
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}


@_kind
def llama3_words(files: Files) -> None:
    _split(files, r"\p{N}{1,3}")
    files["tokenizer.json"]["model"]["ignore_merges"] = True


@_kind
def qwen2_words(files: Files) -> None:
    _split(files, r"\p{N}")


def _split(files: Files, digits: str) -> None:
    pattern = (
        rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    step = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    bytes_ = files["tokenizer.json"]["pre_tokenizer"] | {"use_regex": False}
    files["tokenizer.json"]["pre_tokenizer"] = {
        "type": "Sequence", "pretokenizers": [step, bytes_],
    }  # fmt: skip


@_kind
def prefix_space(files: Files) -> None:
    files["tokenizer.json"]["pre_tokenizer"]["add_prefix_space"] = True
    files["tokenizer_config.json"]["add_prefix_space"] = True


@_kind
def bos_and_pad(files: Files) -> None:
    """A text begins with a token of its own, which the post-processor puts there."""
    bos, pad = _add(files, "<s>", "<pad>")
    files["tokenizer.json"]["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, _sequence("A")],
        "pair": [_sequence("A"), _sequence("B")],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [bos], "tokens": ["<s>"]}},
    }
    files["config.json"] |= {"bos_token_id": bos, "pad_token_id": pad}
    files["tokenizer_config.json"] |= {"bos_token": "<s>", "pad_token": "<pad>"}


@_kind
def older_files(files: Files) -> None:
    """Control tokens named in special_tokens_map.json alone, as objects."""
    (pad,) = _add(files, "<pad>")
    files["config.json"] |= {"pad_token_id": pad}
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    files["special_tokens_map.json"] = {
        "pad_token": {"content": "<pad>", **flags}, "additional_special_tokens": ["<pad>"],
    }  # fmt: skip


@_kind
def slow_files(files: Files) -> None:
    """vocab.json and merges.txt, and beside them added tokens in a file of their own."""
    tokenizer = files.pop("tokenizer.json")
    (end,) = tokenizer["added_tokens"]
    files["vocab.json"] = tokenizer["model"]["vocab"] | {end["content"]: end["id"]}
    merges = ["#version: 0.2", *map(" ".join, tokenizer["model"]["merges"])]
    files["merges.txt"] = "\n".join(merges) + "\n"
    files["added_tokens.json"] = {"<sp1>": end["id"] + 1, "<sp2>": end["id"] + 2}
    files["tokenizer_config.json"] = {"tokenizer_class": "GPT2Tokenizer", "pad_token": "<sp1>"}


@_kind
def several_ends(files: Files) -> None:
    dot = files["tokenizer.json"]["model"]["vocab"]["."]
    ends = [files["config.json"]["eos_token_id"], dot]
    files["config.json"]["eos_token_id"] = ends
    files["generation_config.json"] = {
        "eos_token_id": ends, "pad_token_id": dot, "temperature": 0.7, "do_sample": True,
    }  # fmt: skip


@_kind
def words_added(files: Files) -> None:
    """Added tokens that are text and no control tokens."""
    _add(files, "Sue lives", "🙂🙂", special=False)
    files["tokenizer_config.json"]["model_max_length"] = 77


def _sequence(name: str) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": 0}}


KINDS = tuple(_KINDS)


@functools.cache
def _base(directory: Path) -> Path:
    from tokenizers import Tokenizer

    make_model(directory)
    count = Tokenizer.from_file(str(directory / "tokenizer.json")).get_vocab_size()
    return make_model(directory, vocab_size=count + SPARE, eos_token_id=count - 1,
                      bos_token_id=count - 1)  # fmt: skip


def make_kind(kind: str, base: Path, directory: Path) -> Path:
    """Write the directory of one of ``KINDS``; ``base`` is where all share their weights."""
    base = _base(base)
    shutil.copytree(base, directory)
    (directory / "generation_config.json").unlink()
    files: Files = {
        name: json.loads((base / name).read_text()) for name in ("config.json", "tokenizer.json")
    }
    # transformers' own words for "tokenizer.json as it is".
    end = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    files["tokenizer_config.json"] = {"tokenizer_class": "PreTrainedTokenizerFast", **end}
    _KINDS[kind](files := copy.deepcopy(files))
    (directory / "tokenizer.json").unlink()
    for name, value in files.items():
        text = value if isinstance(value, str) else json.dumps(value)
        (directory / name).write_text(text, encoding="utf-8")
    return directory


def say(directory: Path, script: Sequence[int]) -> None:
    """Change a model's weights: each token of ``script`` follows the one before it for certain.

    Layers add nothing to the embedding, by whose direction the output matrix tells the next token;
    so a token can have one that follows, and the last of the script must have come before.
    """
    assert len(set(script)) == len(script[:-1])
    tensors = load_file(directory / "model.safetensors")
    (embedding,) = (name for name in tensors if name.endswith("wte.weight"))
    for name, values in tensors.items():
        if name.endswith(("c_proj.weight", "c_proj.bias", "wpe.weight", "ln_f.bias")):
            values[:] = 0
        if name.endswith("ln_f.weight"):
            values[:] = 1
    rows = tensors[embedding]
    rows[:] = np.random.default_rng(0).standard_normal(rows.shape)
    output = np.zeros_like(rows)
    for token, following in itertools.pairwise(script):
        output[following] += rows[token]
    save_file(tensors | {"lm_head.weight": output}, directory / "model.safetensors")
    config = json.loads((directory / "config.json").read_text()) | {"tie_word_embeddings": False}
    (directory / "config.json").write_text(json.dumps(config))


def strings(count: int = 200, seed: int = 0) -> list[str]:
    """Texts in which tokenizers differ: white space, numbers, contractions, scripts, emoji."""
    parts = [
        *TEXT.split(" "), " ", "  ", "\n", "\n\n", "\t", " \n", "\r\n", "'s", "'LL", "12", "3.14",
        "\u0663", "½", "²", "1234567", "don't", "naïve", "e\u0301", "北京", "日本 語", "🙂",
        "\u00a0", "\u200b", "\u200d", "<s>", "<pad>", "<|im_start|>", "<|im_end|>", "<|endoftext|>",
        "🙂🙂", "Sue lives", "<sp1>", "<sp2> ", "...", "?!", "_x_", "/*", "Ünï",
        "\u01c5", "\u0915\u094d\u0937", "x" * 40,
    ]  # fmt: skip
    rng = random.Random(seed)
    return ["", " ", *("".join(rng.choices(parts, k=rng.randint(1, 12))) for _ in range(count - 2))]
