"""From a prompt to text: one loop over tokens, and text only at its edges.

``generate_tokens`` (ids) → ``stream_generate`` (text as it comes) → ``generate`` (whole results).
The command line, the server and Python all use this stream. Shapes: V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
import secrets
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from laplm.errors import ContextLengthError, InputError
from laplm.model.config import GPTConfig
from laplm.model.engine.kernel_args import PAGE
from laplm.model.engine.kv_cache import KVCache
from laplm.model.tokenizer import StreamDecoder, Tokenizer, begin_of_text, end_tokens
from laplm.run.sampler import Nudges, SamplingParams, sample, sample_rng, top_logprobs

Array = NDArray[np.float32]
Prompt = str | bytes | Sequence[int]
FinishReason = Literal["stop", "eos", "length", "interrupted"]

DEFAULT_NEW_TOKENS = 100
MAX_SAMPLES = 1024
"""Continuations drawn together: each keeps keys and values of its own, so more fill the memory."""
_COUNT_WHOLE = 1 << 20  # longer prompts (in bytes) are counted by a sample before being refused
_COUNT_SAMPLE = 1 << 17
_ALWAYS_THERE = 1 << 28  # bytes for which the system is not asked: that takes a while


class Engine(Protocol):
    """What the loop needs of a model: a ``GPT``, or a ``TappedGPT``."""

    @property
    def config(self) -> GPTConfig:
        """The model's sizes."""
        ...

    @property
    def precision(self) -> str:
        """Of its weights: fp32, int8 or int4."""
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

    def log_normaliser(self, logits: Array) -> float:
        """log(sum(exp(logits))) of one position (V,)."""
        ...


class TokenLogprob(NamedTuple):
    """One alternative for a token and its natural-log probability."""

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class TokenStep:
    """One token of one sample, before it is text.

    Attributes:
        sample: which of the samples, from 0.
        token_id: the token drawn.
        logprob: its natural-log probability in the model's own distribution (temperature 1, no
            filter).
        top_logprobs: (id, logprob) of the likeliest tokens, likeliest first, as many as asked for.
        finish_reason: set on the last token of a sample.
    """

    sample: int
    token_id: int
    logprob: float
    top_logprobs: tuple[tuple[int, float], ...]
    finish_reason: FinishReason | None


@dataclass(frozen=True)
class GenerationStep:
    """One token of one sample and the text it completes.

    Attributes:
        text: new text, in whole characters; empty while a character or a possible stop string is
            unfinished. The texts of a sample's steps join to the result's text.
        token_id: the token drawn.
        logprob: its natural-log probability in the model's own distribution (temperature 1, no
            filter).
        top_logprobs: the likeliest tokens, likeliest first, as many as asked for.
        finish_reason: set on the last step of a sample: "stop" (a stop string), "eos" (the model
            ended its text), "length" (max_new_tokens).
        sample: which of the samples, from 0.
    """

    text: str
    token_id: int
    logprob: float
    top_logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    sample: int = 0


@dataclass(frozen=True)
class Usage:
    """Counts of tokens.

    Attributes:
        prompt_tokens: tokens of the prompt.
        completion_tokens: tokens drawn, an ending one included.
        cached_tokens: those of the prompt that an earlier call had already worked out.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Timings:
    """How long it took, in seconds from the start of the prompt's prefill.

    Attributes:
        tokens: tokens drawn.
        seconds: until the last of them.
        first_token_seconds: until the first of them.
    """

    tokens: int
    seconds: float
    first_token_seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Tokens over all the time, prefill included; 0 when nothing was drawn."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class GenerationResult:
    """One finished sample.

    Attributes:
        text: the new text, without the prompt, without the stop string.
        token_ids: every token drawn, those of a stop string and an ending token included.
        logprobs: natural-log probability of each of them (temperature 1, no filter).
        top_logprobs: the likeliest alternatives of each of them, when asked for.
        finish_reason: "stop", "eos", "length", or "interrupted" when ended from outside.
        prompt_token_ids: what the model was given.
        usage: counts of tokens.
        timings: seconds and speed of this sample.
        seed: with the same seed and index the same text comes again.
        sample: index of the sample among those drawn together.
        precision: "fp32", "int8" or "int4".
        threads: number of threads that worked.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    top_logprobs: tuple[tuple[TokenLogprob, ...], ...]
    finish_reason: FinishReason
    prompt_token_ids: tuple[int, ...]
    usage: Usage
    timings: Timings
    seed: int
    sample: int
    precision: str
    threads: int


class Row:
    """One sample on its way: how its next token is chosen, and when it ends.

    The part of the loop that is the same however samples are batched; the server's scheduler has
    a loop of its own around it.

    Attributes:
        index: which of the samples, from 0.
        ids: prompt and everything drawn, also what has slid out of the context.
        cache: what the engine keeps of them.
    """

    def __init__(
        self,
        index: int,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        cache: KVCache,
        *,
        max_new_tokens: int,
        known: int,
        min_new_tokens: int = 0,
        eos_token_ids: Collection[int] = (),
        logprobs: int | None = 0,
        ended: Callable[[int, int], bool] | None = None,
        nudges: Nudges | None = None,
        penalty_window: int | None = None,
    ) -> None:
        """Begin; ``params`` has a seed, and only the first ``known`` ids are drawn.

        With ``logprobs`` None no probability is worked out at all, and steps have NaN. The first
        ``min_new_tokens`` are none of ``eos_token_ids``. The repetition penalty looks back at
        ``penalty_window`` tokens; None is all of them.
        """
        assert params.seed is not None
        self.index = index
        self.ids = list(prompt_ids)
        self.cache = cache
        self._rng = sample_rng(params.seed, index)
        self._params = params
        self._n_prompt = len(self.ids)
        self._end = self._n_prompt + max_new_tokens
        self._min_end = self._n_prompt + min_new_tokens
        self._known = known
        self._eos_token_ids = eos_token_ids
        self._forbidden = np.array([i for i in eos_token_ids if i < known], dtype=np.intp)
        self._logprobs = logprobs
        self._ended = ended
        self._nudges = nudges
        self._penalty_window = penalty_window

    def draw(self, gpt: Engine, logits: Array) -> TokenStep:
        """The next token after logits (V,); its step says whether the sample has ended."""
        x = logits[: self._known]
        chosen = x if self._nudges is None else self._nudges.apply(x, self.ids[self._n_prompt :])
        if len(self.ids) < self._min_end and self._forbidden.size:
            chosen = chosen.copy()
            chosen[self._forbidden] = -np.inf
        token = sample(chosen, self._params, self._rng, self._penalised_ids())
        self.ids.append(token)
        reason: FinishReason | None = None
        if token in self._eos_token_ids:
            reason = "eos"
        elif self._ended is not None and self._ended(self.index, token):
            reason = "stop"
        elif len(self.ids) == self._end:
            reason = "length"
        if self._logprobs is None:
            return TokenStep(self.index, token, math.nan, (), reason)
        normaliser = gpt.log_normaliser(x)
        top = tuple(top_logprobs(x, self._logprobs, normaliser)) if self._logprobs else ()
        return TokenStep(self.index, token, float(x[token]) - normaliser, top, reason)

    def _penalised_ids(self) -> Sequence[int]:
        window = self._penalty_window
        return self.ids if window is None else self.ids[max(0, len(self.ids) - window) :]


def generate_tokens(
    gpt: Engine,
    prompt_ids: Sequence[int],
    params: SamplingParams | None = None,
    *,
    max_new_tokens: int = DEFAULT_NEW_TOKENS,
    samples: int = 1,
    eos_token_id: int | Collection[int] | None = None,
    logprobs: int = 0,
    slide: bool = False,
    kv_cache: KVCache | None = None,
    ended: Callable[[int, int], bool] | None = None,
    vocab_size: int | None = None,
) -> Generator[TokenStep]:
    """Draw tokens: the one loop that everything which generates runs on.

    All samples share one prefill of the prompt and are decoded together; one that ends leaves the
    batch. Sample i is the same whatever the number of samples.

    Args:
        gpt: the model.
        prompt_ids: at least one token id.
        params: how tokens are chosen.
        max_new_tokens: tokens drawn per sample, at most.
        samples: how many continuations, at most ``MAX_SAMPLES``.
        eos_token_id: the token that ends a sample, or several of which each does; None for none.
        logprobs: how many alternatives to report with each token.
        slide: go on beyond the model's context by dropping its oldest half when it is full.
        kv_cache: a cache to work in. What it shares with the prompt is not computed again; with
            one sample it holds prompt and continuation afterwards, with more the prompt.
        ended: called with (sample, token id) of each token; true ends the sample with "stop".
        vocab_size: draw from the first so many ids only: a model's vocabulary may be padded
            beyond its tokenizer's.

    Returns:
        One step per token, in order of sample within a position. Nothing is computed before the
        first is asked for.

    Raises:
        ContextLengthError: prompt and request need more positions than the model has.
        InputError: the prompt is empty, an id is not in the vocabulary, or a number is out of
            range.
        ModelFormatError: the model's output is not a number (while drawing).
    """
    params = seeded(params or SamplingParams())
    _check_count("max_new_tokens", max_new_tokens)
    _check_samples(samples)
    _check_count("logprobs", logprobs, least=0)
    _check_ids(prompt_ids, gpt.config)
    if not slide:
        _check_room(len(prompt_ids), max_new_tokens, gpt.config)
    cache = gpt.new_cache() if kv_cache is None else kv_cache
    if samples > 1:
        _check_memory(samples, len(prompt_ids), max_new_tokens, cache, gpt.config)
    known = min(vocab_size or gpt.config.vocab_size, gpt.config.vocab_size)
    return _draw_tokens(
        gpt,
        prompt_ids,
        params,
        max_new_tokens,
        samples,
        _as_ids(eos_token_id),
        logprobs,
        cache,
        ended,
        known,
    )


def _as_ids(eos_token_id: int | Collection[int] | None) -> frozenset[int]:
    if eos_token_id is None:
        return frozenset()
    return frozenset((eos_token_id,) if isinstance(eos_token_id, int) else eos_token_id)


def _draw_tokens(
    gpt: Engine,
    prompt_ids: Sequence[int],
    params: SamplingParams,
    max_new_tokens: int,
    samples: int,
    eos_token_ids: Collection[int],
    logprobs: int,
    cache: KVCache,
    ended: Callable[[int, int], bool] | None,
    known: int,
) -> Generator[TokenStep]:
    logits = _prefill(gpt, _window(prompt_ids, gpt.config), cache)
    caches = [cache] if samples == 1 else cache.fork(samples)
    rows = [
        Row(
            i,
            prompt_ids,
            params,
            caches[i],
            max_new_tokens=max_new_tokens,
            known=known,
            eos_token_ids=eos_token_ids,
            logprobs=logprobs,
            ended=ended,
        )
        for i in range(samples)
    ]
    logits = np.broadcast_to(logits[-1], (samples, logits.shape[-1]))
    while True:
        going = []
        for row, x in zip(rows, logits, strict=True):
            step = row.draw(gpt, x)
            if step.finish_reason is None:
                going.append(row)
            yield step
        rows = going
        if not rows:
            return
        logits = _decode_rows(gpt, rows)


def _decode_rows(gpt: Engine, rows: list[Row]) -> Array:
    """Logits (rows, V) after the token that each row has just drawn."""
    # The rows began together, so all of them are full at the same step.
    if rows[0].cache.length < gpt.config.n_ctx:
        return gpt.decode([row.ids[-1] for row in rows], [row.cache for row in rows])
    out = []
    for row in rows:
        # GPT-2's positions are learned and absolute: what stays is worked out anew from 0 on.
        kept = _window([*row.cache.ids, row.ids[-1]], gpt.config)
        if len(rows) == 1:
            row.cache.trim(0)
        else:
            row.cache = gpt.new_cache()
        out.append(gpt.forward(kept, row.cache, last_only=True)[-1])
    return np.stack(out)


def _window(ids: Sequence[int], config: GPTConfig) -> Sequence[int]:
    """The end of ids that fits the context when its oldest half goes each time it is full."""
    half = max(1, config.n_ctx // 2)
    over = len(ids) - config.n_ctx
    return ids if over <= 0 else ids[-(-over // half) * half :]


def _prefill(gpt: Engine, ids: Sequence[int], cache: KVCache) -> Array:
    """Logits (1, V) after ids; the cache keeps the prefix it shares with them."""
    cache.trim(shared_prefix(cache.ids, ids))
    return gpt.forward(ids[cache.length :], cache, last_only=True)


def shared_prefix(cached: Sequence[int], ids: Sequence[int]) -> int:
    """How many leading ids need no computing; the last one always does, for its logits."""
    count = 0
    for a, b in zip(cached, ids[:-1], strict=False):
        if a != b:
            break
        count += 1
    return count


def seeded(params: SamplingParams) -> SamplingParams:
    """The same parameters with a seed, drawn when they have none."""
    if params.seed is not None:
        return params
    return dataclasses.replace(params, seed=secrets.randbelow(1 << 32))


def _check_count(name: str, value: int, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InputError(f"{name} is {value!r}, but it must be a whole number from {least} up")


def _check_samples(samples: int) -> None:
    _check_count("samples", samples)
    if samples > MAX_SAMPLES:
        raise InputError(
            f"samples is {samples}, but at most {MAX_SAMPLES:,} are drawn together, since each "
            "keeps a cache of its own; ask for fewer, and again with another seed"
        )


def _check_ids(ids: Sequence[int], config: GPTConfig) -> None:
    if len(ids) == 0:
        raise InputError("the prompt is empty; give at least one token")
    for i in ids:
        if not 0 <= i < config.vocab_size:
            raise InputError(
                f"token id {i} is not in the model's vocabulary (0 to {config.vocab_size - 1})"
            )


def _check_room(prompt_tokens: int, max_new_tokens: int, config: GPTConfig) -> None:
    room = config.n_ctx - prompt_tokens
    if room < 1:
        raise _too_long(f"{prompt_tokens:,}", config)
    if max_new_tokens > room:
        raise ContextLengthError(
            f"the prompt has {prompt_tokens:,} tokens and max_new_tokens asks for "
            f"{max_new_tokens:,} more, but the model holds {config.n_ctx:,}: ask for at most "
            f"{room:,}, shorten the prompt, or turn on slide",
            "max_new_tokens",
            "slide",
        )


def _too_long(tokens: str, config: GPTConfig) -> ContextLengthError:
    return ContextLengthError(
        f"the prompt has {tokens} tokens, but the model holds {config.n_ctx:,} and needs room for "
        "new ones: shorten the prompt, or turn on slide to use only its end",
        "slide",
    )


def _check_memory(
    samples: int, prompt_tokens: int, max_new_tokens: int, cache: KVCache, config: GPTConfig
) -> None:
    """Refuse samples whose caches and logits would not fit in this machine's memory."""
    first = prompt_tokens // PAGE * PAGE  # whole pages of the prompt are shared
    positions = min(prompt_tokens + max_new_tokens, config.n_ctx) - min(first, config.n_ctx - 1)
    pages = -(-positions // PAGE)
    each = pages * PAGE * cache.bytes_per_position + 8 * config.vocab_size
    if samples * each < _ALWAYS_THERE:
        return
    from laplm.machine import available_bytes

    free = available_bytes()
    if samples * each > free:
        raise InputError(
            f"samples is {samples:,}, but each takes about {each / 1e6:,.1f} MB and this machine "
            f"has {free / 1e9:,.1f} GB left: ask for at most {max(1, free // each):,}, or for "
            "fewer tokens"
        )


def ends_in_loose_space(text: str, tokenizer: Tokenizer) -> bool:
    """Whether a prompt ends in a space that its tokenizer would have put into the next token.

    GPT-2's words begin with their space (" there" is one token), so the model has hardly seen a
    word after a token that is only a space, and what it writes there is poor.
    """
    if not text.endswith(" ") or not text.strip():
        return False
    return tokenizer.token_text(tokenizer.encode(". a")[-1]).startswith(" ")


def encode_prompt(
    prompt: Prompt, tokenizer: Tokenizer, config: GPTConfig, *, slide: bool = False
) -> list[int]:
    """Token ids of a prompt: text, bytes (UTF-8 or not), or ids as they are.

    Text gets what the tokenizer's post-processor puts around it (a BOS, in some models), and an
    empty prompt becomes the token that begins texts, both as in transformers. A prompt of
    megabytes is refused after looking at a part of it.

    Raises:
        ContextLengthError: the prompt fills the context by itself, and ``slide`` is off.
        InputError: the prompt is empty and the model has no token to begin a text with, or an id
            is not in the vocabulary.
    """
    if isinstance(prompt, str | bytes):
        if len(prompt) > _COUNT_WHOLE and not slide:
            share = len(tokenizer.encode(prompt[:_COUNT_SAMPLE])) / _COUNT_SAMPLE
            if share * len(prompt) > 2 * config.n_ctx:
                raise _too_long(f"about {share * len(prompt):,.0f}", config)
        ids = tokenizer.build_inputs_with_special_tokens(tokenizer.encode(prompt))
    else:
        ids = [int(i) for i in prompt]
    if not ids:
        begin = begin_of_text(tokenizer, config)
        if begin is None:
            raise InputError("the prompt is empty; write the beginning of a text")
        ids = [begin]
    _check_ids(ids, config)
    if not slide and len(ids) >= config.n_ctx:
        raise _too_long(f"{len(ids):,}", config)
    return ids


class StopMatcher:
    """Finds stop strings in text that arrives in pieces, and holds back what may begin one."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = stop
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """The text that is certain not to be part of a stop string, and whether one was found."""
        text = self._held + text
        starts = [i for i in (text.find(s) for s in self._stop) if i >= 0]
        if starts:
            self._held = ""
            return text[: min(starts)], True
        hold = max((_overlap(text, s) for s in self._stop), default=0)
        cut = len(text) - hold
        self._held = text[cut:]
        return text[:cut], False

    def flush(self) -> str:
        """What was held back, once no more text can complete a stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of text that is a proper beginning of stop."""
    for n in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:n]):
            return n
    return 0


class SampleText:
    """The text side of one sample: decoding, stop strings, and what each token completes.

    Attributes:
        finish_reason: why the sample ended, once it has.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], min_new_tokens: int = 0) -> None:
        """Begin; stop strings are not looked for within the first ``min_new_tokens``."""
        self.finish_reason: FinishReason | None = None
        self._tokenizer = tokenizer
        self._decoder = StreamDecoder(tokenizer)
        self._matcher = StopMatcher(stop)
        self._free_tokens = min_new_tokens
        self._pending = ""

    def feed(self, token_id: int) -> bool:
        """Take a token that was drawn; whether a stop string is complete with it."""
        text = self._decoder.feed(token_id)
        if self._free_tokens > 0:
            self._free_tokens -= 1
            self._pending = text
            return False
        self._pending, stopped = self._matcher.feed(text)
        return stopped

    def flush(self) -> str:
        """What was held back, at an end that no stop string made."""
        text, stopped = self._matcher.feed(self._decoder.flush())
        return text if stopped else text + self._matcher.flush()

    def step(self, token: TokenStep) -> GenerationStep:
        """The token with its text. An ending token has not been fed, every other one has."""
        text, self._pending = self._pending, ""
        if token.finish_reason in ("eos", "length"):
            text += self.flush()
        self.finish_reason = token.finish_reason
        tops = tuple(
            TokenLogprob(i, self._tokenizer.token_text(i), logprob)
            for i, logprob in token.top_logprobs
        )
        return GenerationStep(
            text, token.token_id, token.logprob, tops, token.finish_reason, token.sample
        )


class _Sample(SampleText):
    """One sample of a stream, with the record of what was drawn."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        super().__init__(tokenizer, stop)
        self.steps: list[GenerationStep] = []
        self.tail = ""  # text released by an interruption, which no step carries
        self.seconds = 0.0
        self.first_token_seconds = 0.0


@dataclass(frozen=True)
class Request:
    """What is to be generated, checked. Made by ``make_request``."""

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    samples: int
    stop: tuple[str, ...]
    logprobs: int
    ignore_eos: bool
    slide: bool


def make_request(
    prompt: Prompt,
    tokenizer: Tokenizer,
    config: GPTConfig,
    *,
    max_new_tokens: int | None = None,
    samples: int = 1,
    stop: str | Sequence[str] = (),
    logprobs: int = 0,
    ignore_eos: bool = False,
    slide: bool = False,
) -> Request:
    """Check and complete what a caller asks for, before any engine is needed.

    Args:
        prompt: text, bytes or token ids; empty means the beginning of a text.
        tokenizer: the model's tokenizer.
        config: the model's sizes.
        max_new_tokens: tokens per sample, at most; None means 100, or fewer where the model's
            context leaves less room.
        samples: how many continuations, decoded together, at most ``MAX_SAMPLES``; steps say
            whose they are.
        stop: strings that end the text; they are not part of it.
        logprobs: how many alternatives to report with each token.
        ignore_eos: go on when the model ends its text.
        slide: go on beyond the model's context by dropping its oldest half when it is full; of a
            longer prompt only the end is used.

    Raises:
        ContextLengthError: prompt and request need more positions than the model has.
        InputError: a setting or the prompt cannot be used.
    """
    stop = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(isinstance(s, str) and s for s in stop):
        raise InputError("a stop string is empty; give at least one character")
    _check_samples(samples)
    _check_count("logprobs", logprobs, least=0)
    if max_new_tokens is not None:
        _check_count("max_new_tokens", max_new_tokens)
    ids = encode_prompt(prompt, tokenizer, config, slide=slide)
    if max_new_tokens is None:
        room = config.n_ctx - len(ids)
        max_new_tokens = DEFAULT_NEW_TOKENS if slide else min(DEFAULT_NEW_TOKENS, room)
    if not slide:
        _check_room(len(ids), max_new_tokens, config)
    return Request(tuple(ids), max_new_tokens, samples, stop, logprobs, ignore_eos, slide)


class GenerationStream(Iterator[GenerationStep]):
    """Steps as they are drawn; ``results`` gives what came so far, whole or interrupted.

    Characters and stop strings are never split: what may turn out to be part of one is held back
    until it is known. Nothing is computed before the first step is asked for.

    Attributes:
        request: what was asked for.
        params: the sampling parameters, seed included.
    """

    def __init__(
        self,
        gpt: Engine,
        tokenizer: Tokenizer,
        request: Request,
        params: SamplingParams,
        kv_cache: KVCache | None = None,
        release: Callable[[KVCache], None] | None = None,
    ) -> None:
        """Begin; ``release`` is called with the cache when the generation has ended in order."""
        self.request = request
        self.params = seeded(params)
        self._gpt = gpt
        self._tokenizer = tokenizer
        self._samples = [_Sample(tokenizer, request.stop) for _ in range(request.samples)]
        self._cache = gpt.new_cache() if kv_cache is None else kv_cache
        window = _window(request.prompt_ids, gpt.config)
        self._cached_tokens = shared_prefix(self._cache.ids, window)
        self._release = release
        self._start: float | None = None
        self._tokens = generate_tokens(
            gpt,
            request.prompt_ids,
            self.params,
            max_new_tokens=request.max_new_tokens,
            samples=request.samples,
            eos_token_id=None if request.ignore_eos else end_tokens(tokenizer, gpt.config),
            logprobs=request.logprobs,
            slide=request.slide,
            kv_cache=self._cache,
            ended=lambda i, token: self._samples[i].feed(token),
            vocab_size=tokenizer.vocab_size,
        )

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

    def _result(self, index: int, state: _Sample) -> GenerationResult:
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


class StreamOptions(TypedDict, total=False):
    """The named arguments of ``make_request``."""

    max_new_tokens: int | None
    samples: int
    stop: str | Sequence[str]
    logprobs: int
    ignore_eos: bool
    slide: bool


def stream_generate(
    gpt: Engine,
    tokenizer: Tokenizer,
    prompt: Prompt,
    params: SamplingParams | None = None,
    **options: Unpack[StreamOptions],
) -> GenerationStream:
    """Continue a prompt, giving text as it comes. ``make_request`` describes the options.

    Raises:
        ContextLengthError: prompt and request need more positions than the model has.
        InputError: a setting or the prompt cannot be used.
    """
    request = make_request(prompt, tokenizer, gpt.config, **options)
    return GenerationStream(gpt, tokenizer, request, params or SamplingParams())


def generate(
    gpt: Engine,
    tokenizer: Tokenizer,
    prompt: Prompt,
    params: SamplingParams | None = None,
    **options: Unpack[StreamOptions],
) -> list[GenerationResult]:
    """Continue a prompt to the end: one result per sample. Arguments as ``stream_generate``."""
    stream = stream_generate(gpt, tokenizer, prompt, params, **options)
    for _ in stream:
        pass
    return stream.results()
