"""Step 4: measure the trained model, rounded to the fp16 numbers that will be shipped."""

from __future__ import annotations

import json
import lzma
import re
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn import functional

from laplm.errors import InputError
from laplm.gpt.config import GPTConfig
from laplm.tune.data import TokenData
from laplm.tune.torch_model import TorchGPT
from recipes.pocket.make_corpus import read_documents, write_text
from recipes.pocket.train import continue_text

PROMPTS = (
    "Once upon a time",
    "Once upon a time, there was a little girl",
    "One day, a boy named Tim",
    "The dog and the cat",
    "Lily's mom said,",
)
SAMPLES_PER_PROMPT = 4
SAMPLE_TOKENS = 120


def load_trained(work: Path) -> TorchGPT:
    """The model of the last checkpoint, in fp32 but rounded to fp16.

    Raises:
        InputError: nothing has been trained yet.
    """
    path = work / "run" / "checkpoint.pt"
    if not path.exists():
        raise InputError(f"{path} is missing; train the model first")
    state = torch.load(path, weights_only=True, map_location="cpu")
    model = TorchGPT(GPTConfig(**state["settings"]["model"]))
    model.load_state_dict({name: value.half().float() for name, value in state["model"].items()})
    return model.eval()


def evaluate(work: Path) -> dict[str, object]:
    """Measure on held-out text and write samples; returns what ``evaluation.json`` says."""
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    model = load_trained(work)
    heldout = TokenData.load(work / "heldout.npz")
    nats = strided_loss(model, heldout, model.config.n_ctx, model.config.n_ctx // 2)
    samples = [
        continue_text(model, tokenizer, prompt, SAMPLE_TOKENS, temperature=0.8, seed=seed)
        for prompt in PROMPTS
        for seed in range(SAMPLES_PER_PROMPT)
    ]
    train_text = (work / "train.txt").read_text(encoding="utf-8")
    report: dict[str, object] = {
        "protocol": (
            f"held-out documents in one stream, window {model.config.n_ctx}, "
            f"stride {model.config.n_ctx // 2}; end marks are paid for, not counted as bytes"
        ),
        "weights": "fp16",
        "heldout_documents": len(heldout.starts),
        "heldout_bytes": heldout.n_bytes,
        "heldout_loss": round(nats, 4),
        "heldout_bits_per_byte": round(heldout.bits_per_byte(nats), 4),
        "xz_bits_per_byte": round(compressor_bits_per_byte(work), 4),
        "samples": len(samples),
        "sample_words_known": round(known_words(samples, train_text), 4),
    }
    write_text(work / "samples.txt", "\n\n---\n\n".join(samples) + "\n")
    write_text(work / "evaluation.json", json.dumps(report, indent=2) + "\n")
    return report


def strided_loss(model: TorchGPT, data: TokenData, window: int, stride: int) -> float:
    """Nats a token over the whole stream, every token but the first counted once.

    Windows of ``window`` inputs begin every ``stride`` tokens; each counts only the targets no
    earlier window has counted, so they have at least ``window - stride`` tokens before them.
    """
    tokens = torch.from_numpy(data.tokens.astype(np.int64))
    total, counted = 0.0, 1
    with torch.no_grad():
        for begin in range(0, len(tokens) - 1, stride):
            end = min(begin + window, len(tokens) - 1)
            logits = model(tokens[None, begin:end])[0]
            new = end + 1 - counted
            targets = tokens[counted : end + 1]
            total += float(functional.cross_entropy(logits[-new:], targets, reduction="sum"))
            counted = end + 1
            if end == len(tokens) - 1:
                break
    return total / (len(tokens) - 1)


def compressor_bits_per_byte(work: Path) -> float:
    """What xz, having seen the training text, needs for the held-out text.

    A yardstick that needs no tokenizer and no training: the held-out text's share of a file that
    has the training text before it.
    """
    train = "\n".join(read_documents(work / "train.txt")).encode()
    heldout = "\n".join(read_documents(work / "heldout.txt")).encode()
    # The dictionary must reach back over the whole training text.
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": max(4096, 2 * len(train))}]
    alone = len(lzma.compress(train, filters=filters))
    both = len(lzma.compress(train + heldout, filters=filters))
    return 8 * (both - alone) / len(heldout)


def known_words(samples: list[str], train_text: str) -> float:
    """The share of the samples' words that the training text has: the others are misspelt."""
    words = [word for sample in samples for word in _words(sample)]
    known = set(_words(train_text))
    return sum(word in known for word in words) / max(1, len(words))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())
