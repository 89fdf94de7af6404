"""From a request to tokens and text: one loop over tokens, and text only at its edges.

``generate_tokens`` gives token ids, ``GenerationStream`` their text as it comes, and
``LanguageModel.generate`` whole results. The command line and Python use the same stream.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from laplm.errors import InputError
from laplm.model.config import ModelConfig
from laplm.model.engine.kernel_args import PAGE
from laplm.model.engine.kv_cache import KVCache
from laplm.model.tokenizer import Tokenizer, end_tokens
from laplm.run.detokenizer import StreamingDetokenizer
from laplm.run.request import GenerationRequest
from laplm.run.results import (
    FinishReason,
    GenerationResult,
    GenerationStep,
    Timings,
    TokenStep,
    Usage,
)
from laplm.run.sampler import SamplingParams, sample, sample_rng, top_logprobs

Array = NDArray[np.float32]

_UNCHECKED_BYTES = 1 << 28  # below this the system is not asked for free memory: that takes a while


class CausalLM(Protocol):
    """What the loop needs of a model: a ``GPT``, or a ``TappedGPT``."""

    @property
    def config(self) -> ModelConfig:
        """The model's sizes."""
        ...

    @property
    def context(self) -> int:
        """The most positions that a sequence may have."""
        ...

    @property
    def precision(self) -> str:
        """Of its weights: fp32, int8, int4 or stored."""
        ...

    @property
    def threads(self) -> int:
        """How many threads work."""
        ...

    def new_cache(self) -> KVCache:
        """An empty key/value cache for one sequence."""
        ...

    def forward(
        self, ids: ArrayLike, kv_cache: KVCache | None = None, *, last_only: bool = False
    ) -> Array:
        """Token ids (T,) after a cache to logits (T, V), or (1, V) when ``last_only``."""
        ...

    def decode(self, ids: ArrayLike, kv_caches: Sequence[KVCache]) -> Array:
        """One more token for each of B sequences: ids (B,) to logits (B, V)."""
        ...

    def logsumexp(self, logits: Array) -> float:
        """log(sum(exp(logits))) of one position (V,)."""
        ...


class SampleState:
    """One sample being generated: its tokens, its random numbers, and when it ends.

    This part is the same however samples are batched: ``generate_tokens`` and the server's
    scheduler are two loops over it.

    Attributes:
        index: which of the request's samples, from 0.
        ids: the prompt and every token sampled, those that have slid out of the context included.
        cache: keys and values of the tokens in the context.
    """

    def __init__(
        self,
        index: int,
        request: GenerationRequest,
        cache: KVCache,
        *,
        n_vocab: int,
        eos_token_ids: Collection[int] = (),
        should_stop: Callable[[int, int], bool] | None = None,
    ) -> None:
        """Begin.

        Args:
            index: which of the request's samples.
            request: what is to be generated. With ``logprobs`` None, steps have NaN.
            cache: of the prompt.
            n_vocab: only ids below it are sampled: a vocabulary may be padded.
            eos_token_ids: the model's end-of-text tokens.
            should_stop: called with (sample, token id); true ends the sample with "stop".
        """
        assert request.params.seed is not None
        self.index = index
        self.ids = list(request.prompt_ids)
        self.cache = cache
        self._request = request
        self._n_vocab = n_vocab
        self._rng = sample_rng(request.params.seed, index)
        self._end_token_ids = request.end_token_ids(eos_token_ids)
        self._suppressed = np.array([i for i in self._end_token_ids if i < n_vocab], dtype=np.intp)
        self._should_stop = should_stop

    def sample_token(self, gpt: CausalLM, logits: Array) -> TokenStep:
        """The next token after logits (V,); its step says whether the sample has ended."""
        x = logits[: self._n_vocab]
        token = sample(self._processed(x), self._request.params, self._rng, self._penalised_ids())
        self.ids.append(token)
        reason = self._finish_reason(token)
        logprobs = self._request.logprobs
        if logprobs is None:
            return TokenStep(self.index, token, math.nan, (), reason)
        normalizer = gpt.logsumexp(x)
        top = tuple(top_logprobs(x, logprobs, normalizer)) if logprobs else ()
        return TokenStep(self.index, token, float(x[token]) - normalizer, top, reason)

    @property
    def _new_ids(self) -> Sequence[int]:
        return self.ids[len(self._request.prompt_ids) :]

    def _processed(self, x: Array) -> Array:
        """Logits (V,) with the request's adjustments, end tokens suppressed at the beginning."""
        request = self._request
        if request.logit_adjustments is not None:
            x = request.logit_adjustments.apply(x, self._new_ids)
        n_new = len(self.ids) - len(request.prompt_ids)
        if n_new < request.min_new_tokens and self._suppressed.size:
            x = x.copy()
            x[self._suppressed] = -np.inf
        return x

    def _finish_reason(self, token: int) -> FinishReason | None:
        if token in self._end_token_ids:
            return "eos"
        if self._should_stop is not None and self._should_stop(self.index, token):
            return "stop"
        if len(self.ids) == len(self._request.prompt_ids) + self._request.max_new_tokens:
            return "length"
        return None

    def _penalised_ids(self) -> Sequence[int]:
        window = self._request.penalty_window
        return self.ids if window is None else self.ids[max(0, len(self.ids) - window) :]


def generate_tokens(
    gpt: CausalLM,
    request: GenerationRequest,
    *,
    eos_token_ids: Collection[int] = (),
    kv_cache: KVCache | None = None,
    should_stop: Callable[[int, int], bool] | None = None,
    n_vocab: int | None = None,
) -> Generator[TokenStep]:
    """Generate tokens: the one loop behind the command line and Python.

    All samples share one prefill of the prompt and are decoded together; one that ends leaves the
    batch. Sample i is the same whatever the number of samples.

    Args:
        gpt: the model.
        request: what is to be generated, at least one token.
        eos_token_ids: the model's end-of-text tokens, each of which ends a sample.
        kv_cache: a cache to work in. What it shares with the prompt is not computed again; with
            one sample it holds prompt and continuation afterwards, with more the prompt.
        should_stop: called with (sample, token id) of each token; true ends the sample with
            "stop".
        n_vocab: only ids below it are sampled: a model's vocabulary may be padded beyond its
            tokenizer's.

    Returns:
        One step per token, in order of sample within a position. Nothing is computed before the
        first is asked for.

    Raises:
        InputError: the samples do not fit in memory.
        ModelFormatError: the model's output is not a number (while sampling).
    """
    cache = gpt.new_cache() if kv_cache is None else kv_cache
    if request.samples > 1:
        _check_memory(request, cache, gpt)
    n_vocab = min(n_vocab or gpt.config.vocab_size, gpt.config.vocab_size)

    def new_state(index: int, cache: KVCache) -> SampleState:
        return SampleState(
            index, request, cache,
            n_vocab=n_vocab, eos_token_ids=eos_token_ids, should_stop=should_stop,
        )  # fmt: skip

    return _generate_tokens(gpt, request, cache, new_state)


def _generate_tokens(
    gpt: CausalLM,
    request: GenerationRequest,
    cache: KVCache,
    new_state: Callable[[int, KVCache], SampleState],
) -> Generator[TokenStep]:
    logits = _prefill(gpt, _truncate_to_context(request.prompt_ids, gpt.context), cache)
    caches = [cache] if request.samples == 1 else cache.fork(request.samples)
    states = [new_state(i, each) for i, each in enumerate(caches)]
    logits = np.broadcast_to(logits[-1], (len(states), logits.shape[-1]))
    while True:
        unfinished = []
        for state, x in zip(states, logits, strict=True):
            step = state.sample_token(gpt, x)
            if step.finish_reason is None:
                unfinished.append(state)
            yield step
        states = unfinished
        if not states:
            return
        logits = _decode(gpt, states)


def _decode(gpt: CausalLM, states: list[SampleState]) -> Array:
    """Logits (B, V) after the last token of each sample."""
    # The samples share a prompt, so their contexts are full at the same step.
    if states[0].cache.length < gpt.context:
        return gpt.decode([state.ids[-1] for state in states], [state.cache for state in states])
    out = []
    for state in states:
        # What stays is computed again from position 0 on. Rotary keys could be turned back where
        # they are, but those of deeper layers were made of the tokens that have gone.
        ids = _truncate_to_context([*state.cache.ids, state.ids[-1]], gpt.context)
        if len(states) == 1:
            state.cache.trim(0)
        else:
            state.cache = gpt.new_cache()
        out.append(gpt.forward(ids, state.cache, last_only=True)[-1])
    return np.stack(out)


def _truncate_to_context(ids: Sequence[int], context: int) -> Sequence[int]:
    """The end of ids that fits the context when its oldest half goes each time it is full."""
    half = max(1, context // 2)
    over = len(ids) - context
    return ids if over <= 0 else ids[-(-over // half) * half :]


def _prefill(gpt: CausalLM, ids: Sequence[int], cache: KVCache) -> Array:
    """Logits (1, V) after ids; the cache keeps the prefix it shares with them."""
    cache.trim(shared_prefix_length(cache.ids, ids))
    return gpt.forward(ids[cache.length :], cache, last_only=True)


def shared_prefix_length(cached: Sequence[int], ids: Sequence[int]) -> int:
    """How many leading ids need no computing; the last one always does, for its logits."""
    count = 0
    for a, b in zip(cached, ids[:-1], strict=False):
        if a != b:
            break
        count += 1
    return count


def _check_memory(request: GenerationRequest, cache: KVCache, gpt: CausalLM) -> None:
    """Refuse samples whose caches and logits would not fit in this machine's memory."""
    samples, prompt_tokens = request.samples, len(request.prompt_ids)
    first = prompt_tokens // PAGE * PAGE  # whole pages of the prompt are shared
    last = min(prompt_tokens + request.max_new_tokens, gpt.context)
    pages = -(-(last - min(first, gpt.context - 1)) // PAGE)
    each = pages * PAGE * cache.bytes_per_position + 8 * gpt.config.vocab_size
    if samples * each < _UNCHECKED_BYTES:
        return
    from laplm.machine import available_bytes

    free = available_bytes()
    if samples * each > free:
        raise InputError(
            f"samples is {samples:,}, but each takes about {each / 1e6:,.1f} MB and this machine "
            f"has {free / 1e9:,.1f} GB left: ask for at most {max(1, free // each):,}, or for "
            "fewer tokens"
        )


class _StreamedSample(StreamingDetokenizer):
    """One sample of a stream, with the record of its steps."""

    def __init__(self, tokenizer: Tokenizer, request: GenerationRequest) -> None:
        super().__init__(tokenizer, request.stop, request.min_new_tokens)
        self.steps: list[GenerationStep] = []
        self.tail = ""  # text released by an interruption, which no step carries
        self.seconds = 0.0
        self.first_token_seconds = 0.0


class GenerationStream(Iterator[GenerationStep]):
    """Steps as they are sampled; ``results`` gives what came so far, whole or interrupted.

    Characters and stop strings are never split: what may turn out to be part of one is held back
    until it is known. Nothing is computed before the first step is asked for.

    Attributes:
        request: what was asked for, its seed included.
    """

    def __init__(
        self,
        gpt: CausalLM,
        tokenizer: Tokenizer,
        request: GenerationRequest,
        kv_cache: KVCache | None = None,
        release: Callable[[KVCache], None] | None = None,
    ) -> None:
        """Begin; ``release`` is called with the cache when the generation has ended in order."""
        self.request = request
        self._gpt = gpt
        self._samples = [_StreamedSample(tokenizer, request) for _ in range(request.samples)]
        self._cache = gpt.new_cache() if kv_cache is None else kv_cache
        window = _truncate_to_context(request.prompt_ids, gpt.context)
        self._cached_tokens = shared_prefix_length(self._cache.ids, window)
        self._release = release
        self._start: float | None = None
        self._tokens = generate_tokens(
            gpt,
            request,
            eos_token_ids=end_tokens(tokenizer, gpt.config),
            kv_cache=self._cache,
            should_stop=lambda i, token: self._samples[i].feed(token),
            n_vocab=tokenizer.vocab_size,
        )

    @property
    def params(self) -> SamplingParams:
        """The sampling parameters, seed included."""
        return self.request.params

    def __next__(self) -> GenerationStep:
        if self._start is None:
            self._start = time.perf_counter()
        try:
            token = next(self._tokens)
        except StopIteration:
            self._finish()
            raise
        except BaseException:
            self._release = None  # the cache may be torn
            raise
        state = self._samples[token.sample]
        step = state.step(token)
        state.seconds = time.perf_counter() - self._start
        if not state.steps:
            state.first_token_seconds = state.seconds
        state.steps.append(step)
        return step

    def close(self) -> None:
        """End the generation here; text held back for a stop string that never came is kept."""
        self._tokens.close()
        for state in self._samples:
            if state.finish_reason is None:
                state.tail = state.flush()
                state.finish_reason = "interrupted"
        self._finish()

    def _finish(self) -> None:
        if self._release is not None:
            self._release(self._cache)
            self._release = None

    @property
    def timings(self) -> Timings:
        """Of all samples together, so far."""
        started = [state for state in self._samples if state.steps]
        return Timings(
            tokens=sum(len(state.steps) for state in started),
            seconds=max((state.seconds for state in started), default=0.0),
            first_token_seconds=min((s.first_token_seconds for s in started), default=0.0),
        )

    def results(self) -> list[GenerationResult]:
        """One result per sample. Samples that have not ended are ended as "interrupted"."""
        if any(state.finish_reason is None for state in self._samples):
            self.close()
        return [self._result(i, state) for i, state in enumerate(self._samples)]

    def _result(self, index: int, state: _StreamedSample) -> GenerationResult:
        assert state.finish_reason is not None and self.params.seed is not None
        steps = state.steps
        return GenerationResult(
            text="".join(step.text for step in steps) + state.tail,
            token_ids=tuple(step.token_id for step in steps),
            logprobs=tuple(step.logprob for step in steps),
            top_logprobs=tuple(step.top_logprobs for step in steps if step.top_logprobs),
            finish_reason=state.finish_reason,
            prompt_token_ids=self.request.prompt_ids,
            usage=Usage(len(self.request.prompt_ids), len(steps), self._cached_tokens),
            timings=Timings(len(steps), state.seconds, state.first_token_seconds),
            seed=self.params.seed,
            sample=index,
            precision=self._gpt.precision,
            threads=self._gpt.threads,
        )
