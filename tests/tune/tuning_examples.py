"""A model and data so small that a training takes a second."""

from __future__ import annotations

import numpy as np

from laplm.model.config import ModelConfig
from laplm.tune.models.gpt2 import TorchGPT
from recipes.pocket.token_data import TokenData

VOCAB = 61


def tiny_config(**changes: object) -> ModelConfig:
    sizes = {
        "vocab_size": VOCAB, "n_ctx": 32, "n_embd": 32, "n_layer": 2, "n_head": 2,
        "eos_token_ids": (VOCAB - 1,),
    } | changes  # fmt: skip
    return ModelConfig(**sizes)


def tiny_model(seed: int = 0, **changes: object) -> TorchGPT:
    model = TorchGPT(tiny_config(**changes))
    model.initialise(seed)
    return model


def counting_data(n_documents: int, seed: int) -> TokenData:
    """Documents that count upwards from a random number: easy to learn, different each time."""
    rng = np.random.default_rng(seed)
    documents = []
    for _ in range(n_documents):
        first, length = rng.integers(0, VOCAB - 1), rng.integers(5, 60)
        documents.append(np.append((first + np.arange(length)) % (VOCAB - 1), VOCAB - 1))
    lengths = [len(d) for d in documents]
    return TokenData(
        tokens=np.concatenate(documents).astype(np.uint16),
        starts=np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64),
        n_bytes=2 * sum(n - 1 for n in lengths),
    )
