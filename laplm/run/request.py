"""What is to be generated: one request, from the command line, Python and HTTP to the token loop.

A ``GenerationRequest`` is checked where it is made, and trusted from there on.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, Unpack

import numpy as np

from laplm.errors import ContextLengthError, InputError
from laplm.model.config import ModelConfig
from laplm.model.tokenizer import Tokenizer, begin_of_text
from laplm.run.sampler import LogitAdjustments, SamplingParams

Prompt = str | bytes | Sequence[int]

DEFAULT_MAX_NEW_TOKENS = 100
MAX_SAMPLES = 1024
"""Continuations decoded together: each has keys and values of its own, so more fill the memory."""
SAMPLING = frozenset(each.name for each in dataclasses.fields(SamplingParams))
"""The options of ``GenerationOptions`` that say how tokens are chosen."""

_MAX_EXACT_COUNT = 1 << 20  # of longer prompts (in bytes) the tokens are estimated by a part
_ESTIMATE_FROM = 1 << 17  # bytes of that part


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """What is to be generated, checked; ``make_request`` also checks it against a model.

    Attributes:
        prompt_ids: at least one token id.
        max_new_tokens: of each sample, at most; 0 only runs the prompt.
        params: how tokens are chosen; a seed is drawn when it has none.
        samples: continuations decoded together.
        min_new_tokens: before so many, only ``max_new_tokens`` ends a sample.
        stop: strings that end a sample; they are not part of its text.
        stop_token_ids: tokens that end a sample, besides the model's end-of-text tokens.
        ignore_eos: go on after the model's end-of-text tokens.
        logprobs: alternatives reported with each token; None computes no log-probabilities.
        prompt_logprobs: report the prompt's tokens too.
        slide: go on beyond the model's context by dropping its oldest half when it is full.
        logit_adjustments: what is added to logits before sampling.
        penalty_window: tokens that the repetition penalty looks back at; None for all.

    Raises:
        InputError: a value is of the wrong kind or out of its range.
    """

    prompt_ids: tuple[int, ...]
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS
    params: SamplingParams = field(default_factory=SamplingParams)
    samples: int = 1
    min_new_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = 0
    prompt_logprobs: bool = False
    slide: bool = False
    logit_adjustments: LogitAdjustments | None = None
    penalty_window: int | None = None

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        if not all(isinstance(s, str) and s for s in stop):
            raise InputError("a stop string is empty; give at least one character")
        object.__setattr__(self, "stop", stop)
        self._check_count("samples", 1)
        if self.samples > MAX_SAMPLES:
            raise InputError(
                f"samples is {self.samples}, but at most {MAX_SAMPLES:,} are drawn together, since "
                "each keeps a cache of its own; ask for fewer, and again with another seed"
            )
        for name in ("logprobs", "max_new_tokens", "min_new_tokens", "penalty_window"):
            if getattr(self, name) is not None:
                self._check_count(name, 0)
        if len(self.prompt_ids) == 0:
            raise InputError("the prompt is empty; give at least one token")
        if self.params.seed is None:
            seeded = dataclasses.replace(self.params, seed=secrets.randbelow(1 << 32))
            object.__setattr__(self, "params", seeded)

    def end_token_ids(self, eos_token_ids: Collection[int]) -> frozenset[int]:
        """Every token that ends a sample, given the model's end-of-text tokens."""
        return frozenset(self.stop_token_ids).union(() if self.ignore_eos else eos_token_ids)

    def _check_count(self, name: str, minimum: int) -> None:
        object.__setattr__(self, name, check_count(name, getattr(self, name), minimum))


class GenerationOptions(TypedDict, total=False):
    """Keyword arguments of ``make_request``, and so of ``LanguageModel.generate`` and ``stream``.

    The first six are those of ``SamplingParams``, the others those of ``GenerationRequest``.
    """

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int | None
    stop: str | Sequence[str]
    logprobs: int
    ignore_eos: bool
    slide: bool


def make_request(
    prompt: Prompt,
    tokenizer: Tokenizer,
    config: ModelConfig,
    max_new_tokens: int | None = None,
    *,
    context: int | None = None,
    samples: int = 1,
    **options: Unpack[GenerationOptions],
) -> GenerationRequest:
    """Check and complete what a caller asks for, before any engine is needed.

    Args:
        prompt: text, bytes or token ids; empty means the beginning of a text.
        tokenizer: the model's tokenizer.
        config: the model's sizes.
        max_new_tokens: tokens per sample, at most; None means 100, or fewer where the model's
            context leaves less room.
        context: the most positions of a sequence; None means as many as the model has.
        samples: how many continuations, decoded together, at most ``MAX_SAMPLES``.
        **options: fields of ``SamplingParams`` and of ``GenerationRequest``. With ``slide``, only
            the end of a prompt that is longer than the context is used.

    Raises:
        ContextLengthError: prompt and request need more positions than the context has.
        InputError: a setting or the prompt cannot be used.
        TypeError: there is no such option.
    """
    unknown = options.keys() - GenerationOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"unknown option {min(unknown)!r}")
    context = context or config.n_ctx
    values: dict[str, Any] = dict(options)
    params = SamplingParams(**{name: values.pop(name) for name in SAMPLING & values.keys()})
    if max_new_tokens is not None:
        check_count("max_new_tokens", max_new_tokens)
    slide = options.get("slide", False)
    ids = encode_prompt(prompt, tokenizer, config, context=context, slide=slide)
    if max_new_tokens is None:
        room = DEFAULT_MAX_NEW_TOKENS if slide else context - len(ids)
        max_new_tokens = min(DEFAULT_MAX_NEW_TOKENS, room)
    request = GenerationRequest(
        prompt_ids=tuple(ids),
        max_new_tokens=max_new_tokens,
        params=params,
        samples=samples,
        **values,
    )
    if not slide:
        _check_fits_context(len(ids), max_new_tokens, config, context)
    return request


def encode_prompt(
    prompt: Prompt,
    tokenizer: Tokenizer,
    config: ModelConfig,
    *,
    context: int | None = None,
    slide: bool = False,
) -> list[int]:
    """Token ids of a prompt: text, bytes (UTF-8 or not), or ids as they are.

    Text gets what the tokenizer's post-processor puts around it (a BOS, in some models), and an
    empty prompt becomes the token that begins texts, both as in transformers. A prompt of
    megabytes is refused after tokenizing a part of it.

    Raises:
        ContextLengthError: the prompt fills the context by itself, and ``slide`` is off.
        InputError: the prompt is empty and the model has no token to begin a text with, or an id
            is not in the vocabulary.
    """
    context = context or config.n_ctx
    if isinstance(prompt, str | bytes):
        if len(prompt) > _MAX_EXACT_COUNT and not slide:
            per_byte = len(tokenizer.encode(prompt[:_ESTIMATE_FROM])) / _ESTIMATE_FROM
            if per_byte * len(prompt) > 2 * context:
                raise _too_long(f"about {per_byte * len(prompt):,.0f}", config, context)
        ids = tokenizer.build_inputs_with_special_tokens(tokenizer.encode(prompt))
    else:
        ids = [int(i) for i in prompt]
    if not ids:
        begin = begin_of_text(tokenizer, config)
        if begin is None:
            raise InputError("the prompt is empty; write the beginning of a text")
        ids = [begin]
    for i in ids:
        if not 0 <= i < config.vocab_size:
            raise InputError(
                f"token id {i} is not in the model's vocabulary (0 to {config.vocab_size - 1})"
            )
    if not slide and len(ids) >= context:
        raise _too_long(f"{len(ids):,}", config, context)
    return ids


def ends_in_space_token(text: str, tokenizer: Tokenizer) -> bool:
    """Whether a prompt ends in a space that its tokenizer would have put into the next token.

    GPT-2's words begin with their space (" there" is one token), so the model has hardly seen a
    word after a token that is only a space, and what it writes there is poor.
    """
    if not text.endswith(" ") or not text.strip():
        return False
    return tokenizer.token_text(tokenizer.encode(". a")[-1]).startswith(" ")


def check_count(name: str, value: Any, minimum: int = 1) -> int:
    """A whole number from ``minimum`` up, as Python's own.

    Raises:
        InputError: it is none.
    """
    integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not integer or value < minimum:
        raise InputError(f"{name} is {value!r}, but it must be a whole number from {minimum} up")
    return int(value)


def _check_fits_context(
    prompt_tokens: int, max_new_tokens: int, config: ModelConfig, context: int
) -> None:
    room = context - prompt_tokens
    if room < 1:
        raise _too_long(f"{prompt_tokens:,}", config, context)
    if max_new_tokens > room:
        holds, larger = context_limit_phrases(config, context)
        raise ContextLengthError(
            f"the prompt has {prompt_tokens:,} tokens and max_new_tokens asks for "
            f"{max_new_tokens:,} more, but the model {holds}: ask for at most {room:,}, shorten "
            f"the prompt, {larger}or turn on slide",
            "max_new_tokens",
            "slide",
            "context",
        )


def _too_long(tokens: str, config: ModelConfig, context: int) -> ContextLengthError:
    holds, larger = context_limit_phrases(config, context)
    return ContextLengthError(
        f"the prompt has {tokens} tokens, but the model {holds} and needs room for new ones: "
        f"shorten the prompt, {larger}or turn on slide to use only its end",
        "slide",
        "context",
    )


def context_limit_phrases(config: ModelConfig, context: int) -> tuple[str, str]:
    """How many positions there are, and what to do about it where the model has more."""
    if context == config.n_ctx:
        return f"holds {context:,}", ""
    own = f" of its {config.n_ctx:,}" if context < config.n_ctx else ""
    return f"is set to hold {context:,}{own}", "set a larger context, "
