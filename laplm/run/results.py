"""What comes out of generation: steps as tokens are sampled, and finished samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

FinishReason = Literal["stop", "eos", "length", "interrupted"]


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
        precision: "fp32", "int8", "int4" or "stored".
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
