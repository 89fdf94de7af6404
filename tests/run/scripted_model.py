"""A model that says what it is told to, token by token: what text does at its edges."""

from __future__ import annotations

import numpy as np

from laplm.model.config import ModelConfig
from laplm.model.tokenizer import Tokenizer
from laplm.run.generate import GenerationStream
from laplm.run.request import make_request
from laplm.run.sampler import logsumexp


class ScriptedGPT:
    """A model that says one thing, whatever it is asked: ``script``, then id 0 for ever."""

    precision, threads = "fp32", 1

    def __init__(self, script: list[int], vocab_size: int, n_ctx: int = 4096) -> None:
        self.config = ModelConfig(
            vocab_size=vocab_size, n_ctx=n_ctx, n_embd=8, n_layer=1, n_head=1,
            eos_token_ids=(vocab_size - 1,),
        )  # fmt: skip
        self.context = n_ctx
        self.script = script
        self.prompt = 0
        self.batches: list[int] = []

    class Cache:
        def __init__(self) -> None:
            self.ids: list[int] = []

        @property
        def length(self) -> int:
            return len(self.ids)

        def trim(self, length: int) -> None:
            del self.ids[length:]

        def fork(self, count: int) -> list[ScriptedGPT.Cache]:
            out = [ScriptedGPT.Cache() for _ in range(count)]
            for cache in out:
                cache.ids = list(self.ids)
            return out

    def new_cache(self) -> ScriptedGPT.Cache:
        return self.Cache()

    def forward(self, ids, kv_cache, *, last_only=False):
        kv_cache.ids.extend(ids)
        self.prompt = kv_cache.length
        return self._logits(kv_cache)[None]

    def logsumexp(self, logits):
        return logsumexp(logits)

    def decode(self, ids, kv_caches):
        self.batches.append(len(ids))
        for i, cache in zip(ids, kv_caches, strict=True):
            cache.ids.append(i)
        return np.stack([self._logits(cache) for cache in kv_caches])

    def _logits(self, cache):
        position = cache.length - self.prompt
        token = self.script[position] if position < len(self.script) else 0
        logits = np.zeros(self.config.vocab_size, np.float32)
        logits[token] = 30.0
        return logits


def say(tokenizer: Tokenizer, text: str | bytes | list[int], **options) -> GenerationStream:
    """Stream a text from a model that says it token by token, then ends."""
    ids = text if isinstance(text, list) else tokenizer.encode(text)
    gpt = ScriptedGPT([*ids, tokenizer.vocab_size - 1], tokenizer.vocab_size)
    options = {"max_new_tokens": len(ids) + 1} | options
    request = make_request("x", tokenizer, gpt.config, temperature=0, **options)
    return GenerationStream(gpt, tokenizer, request)
