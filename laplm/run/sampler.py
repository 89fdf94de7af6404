"""From logits to one token: filter, then draw.

The filters are those of transformers in transformers' order: repetition penalty, temperature,
top-k, top-p, min-p. Shapes: V vocabulary, K tokens that pass the filters.
"""

from __future__ import annotations

import math
import numbers
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from laplm.errors import InputError, ModelFormatError

Array = NDArray[np.float32]
Ids = NDArray[np.intp]

GREEDY_BELOW = 1e-4
"""Temperatures below this pick the likeliest token: dividing by less only loses precision."""

REPETITION_PENALTY = (0.01, 100.0)
"""Least and most: logits of any model stay finite when they are divided or multiplied by these."""

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_BLOCK_SIZE = 64
_ONE_PASS_SIZE = (
    4096  # below this many logits one pass over all of them is as fast as going by blocks
)


class RandomSource(Protocol):
    """Where chance comes from: ``random.Random`` and ``numpy.random.Generator`` both fit."""

    def random(self) -> float:
        """A number in [0, 1)."""
        ...


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen; refused on construction when out of range.

    Attributes:
        temperature: logits are divided by it; below 0.0001 the likeliest token is taken.
        top_k: only the k likeliest tokens (and ties with the last of them); 0 means all.
        top_p: only the fewest likeliest tokens that hold this share of the probability.
        min_p: only tokens at least this share as likely as the likeliest one.
        repetition_penalty: logits of tokens already in the text are divided by it when positive
            and multiplied when negative; from 0.01 to 100, 1 means off.
        seed: the same seed gives the same text; None draws one.

    Raises:
        InputError: a value is of the wrong kind or out of its range.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        self._check_number("temperature", "a number from 0 (greedy) up", lambda x: x >= 0)
        self._check_integer("top_k", "a whole number from 0 (off) up")
        self._check_number("top_p", "a number from 0 to 1 (off)", lambda x: 0 <= x <= 1)
        self._check_number("min_p", "a number from 0 (off) to 1", lambda x: 0 <= x <= 1)
        least, most = REPETITION_PENALTY
        self._check_number(
            "repetition_penalty",
            f"a number from {least:g} to {most:g} (1 is off)",
            lambda x: least <= x <= most,
        )
        if self.seed is not None:
            self._check_integer("seed", "a whole number from 0 up; leave it out to draw one")

    @property
    def greedy(self) -> bool:
        """Whether chance plays no part."""
        return self.temperature < GREEDY_BELOW

    def _check_number(self, name: str, kind: str, fits: Any) -> None:
        value = getattr(self, name)
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or not fits(value):
            raise InputError(f"{name} is {value!r}, but it must be {kind}")
        object.__setattr__(self, name, float(value))

    def _check_integer(self, name: str, kind: str) -> None:
        value = getattr(self, name)
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not whole or value < 0:
            raise InputError(f"{name} is {value!r}, but it must be {kind}")
        object.__setattr__(self, name, int(value))


@dataclass(frozen=True)
class LogitAdjustments:
    """What is added to logits before a token is chosen, as OpenAI's API has it.

    Attributes:
        logit_bias: added to the logits of these ids; -100 or so forbids a token.
        presence_penalty: taken off the logits of tokens that were drawn before.
        frequency_penalty: taken off as often as a token was drawn before.
    """

    logit_bias: Mapping[int, float] = field(default_factory=dict)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    def apply(self, logits: Array, drawn: Sequence[int]) -> Array:
        """Logits (V,) with everything added; ``drawn`` are the new tokens so far.

        Source: https://platform.openai.com/docs/api-reference/completions, "frequency_penalty".

        Raises:
            InputError: an id of ``logit_bias`` is none of the V.
        """
        x = logits.astype(np.float32)
        for token, bias in self.logit_bias.items():
            if not 0 <= token < len(x):
                raise InputError(
                    f"logit_bias has the id {token}, but the tokens are 0 to {len(x) - 1}"
                )
            x[token] += np.float32(bias)
        if drawn and (self.presence_penalty or self.frequency_penalty):
            ids, counts = np.unique(np.asarray(drawn, dtype=np.intp), return_counts=True)
            x[ids] -= counts * np.float32(self.frequency_penalty)
            x[ids] -= np.float32(self.presence_penalty)
        return x


def sample_rng(seed: int, index: int = 0) -> random.Random:
    """The chance of sample ``index`` of a run: it depends on these two numbers and nothing else.

    Python's generator, whose sequence for a given seed is promised not to change between
    versions, and which needs no import of ``numpy.random`` (a tenth of a second).
    """
    return random.Random(f"{seed}/{index}")


def sample(
    logits: ArrayLike,
    params: SamplingParams,
    rng: RandomSource,
    previous_ids: Sequence[int] = (),
) -> int:
    """Choose the next token: logits (V,) to one id.

    One uniform number is drawn per token (none when greedy) and looked up in the cumulative
    distribution of the tokens that pass the filters, in order of id.

    Raises:
        ModelFormatError: the logits are not numbers.
    """
    if params.greedy:
        x = _apply_repetition_penalty(
            _check_finite(logits), params.repetition_penalty, previous_ids
        )
        return int(x.argmax())
    x, ids = _apply_filters(logits, params, previous_ids)
    position = _sample_index(_softmax_numerators(x), rng.random())
    return position if ids is None else int(ids[position])


def filtered_logits(
    logits: ArrayLike, params: SamplingParams, previous_ids: Sequence[int] = ()
) -> Array:
    """Logits (V,) after penalty and temperature, -inf where a filter removed the token.

    Greedy parameters leave one token.

    Raises:
        ModelFormatError: the logits are not numbers.
    """
    if params.greedy:
        x = _apply_repetition_penalty(
            _check_finite(logits), params.repetition_penalty, previous_ids
        )
        ids: Ids | None = np.array([x.argmax()])
        size, x = len(x), x[ids]
    else:
        size = np.shape(logits)[0]
        x, ids = _apply_filters(logits, params, previous_ids)
    if ids is None:
        return x
    out = np.full(size, -np.inf, np.float32)
    out[ids] = x
    return out


def probabilities(
    logits: ArrayLike, params: SamplingParams, previous_ids: Sequence[int] = ()
) -> NDArray[np.float64]:
    """The distribution (V,) that ``sample`` draws from; sums to 1."""
    weights = _softmax_numerators(filtered_logits(logits, params, previous_ids)).astype(np.float64)
    out: NDArray[np.float64] = weights / weights.sum()
    return out


def logsumexp(logits: Array) -> float:
    """log(sum(exp(logits))) of logits (V,): subtract it from a logit for its log-probability."""
    top = logits.max()
    return float(top) + math.log(np.exp(logits - top).sum())


def top_logprobs(logits: Array, k: int, normalizer: float | None = None) -> list[tuple[int, float]]:
    """The k likeliest tokens of logits (V,) with their log-probabilities, likeliest first.

    Of the model's own distribution: temperature 1 and no filter. Ties are in order of id.
    """
    if normalizer is None:
        normalizer = logsumexp(logits)
    if k < 1:
        return []
    ids = _top_k(logits, k) if k < len(logits) else np.arange(len(logits))
    ids = ids[np.argsort(-logits[ids], kind="stable")][:k]
    return [(int(i), float(logits[i]) - normalizer) for i in ids]


def _check_finite(logits: ArrayLike) -> Array:
    x: Array = np.asarray(logits, dtype=np.float32)
    # NaN wins every max, so this one number tells of NaN, of +inf and of nothing but -inf.
    if not math.isfinite(x.max()):
        raise ModelFormatError(
            "the model's output holds values that are not numbers: its weights are damaged, or "
            "too large for this precision; try precision fp32"
        )
    return x


def _apply_repetition_penalty(x: Array, penalty: float, previous_ids: Sequence[int]) -> Array:
    """Source: Keskar et al. 2019, "CTRL", section 4.1, with the sign handled as transformers."""
    if penalty == 1.0 or len(previous_ids) == 0:
        return x
    ids = np.asarray(previous_ids, dtype=np.intp)
    ids = ids[ids < len(x)]  # a prompt may have ids of a padded vocabulary, which are never drawn
    x, old, factor = x.copy(), x[ids], np.float32(penalty)
    with np.errstate(over="ignore"):
        x[ids] = np.where(old < 0, old * factor, old / factor)
    return _check_finite(x)


def _apply_filters(
    logits: ArrayLike, params: SamplingParams, previous_ids: Sequence[int]
) -> tuple[Array, Ids | None]:
    """Scaled logits (K,) of the tokens that pass, and their ids in order; None means all."""
    x = np.asarray(logits, dtype=np.float32)
    ids: Ids | None = None
    some = 0 < params.top_k < len(x)
    if some and params.repetition_penalty == 1.0:
        # Only these can matter: scaling and looking for the border among a few is much less work.
        ids = _top_k_candidates(x, params.top_k)
        x = x if ids is None else x[ids]
    if ids is None:
        x = _apply_repetition_penalty(_check_finite(x), params.repetition_penalty, previous_ids)
    if params.temperature != 1.0:
        with np.errstate(over="ignore"):  # too large a quotient is found by the check
            x = _check_finite(x / np.float32(min(params.temperature, _FLOAT32_MAX)))
    if some:
        keep = _top_k(x, params.top_k)
        x, ids = x[keep], keep if ids is None else ids[keep]
    if params.top_p < 1.0:
        keep = _top_p(x, params.top_p)
        x, ids = x[keep], keep if ids is None else ids[keep]
    if params.min_p > 0.0:
        keep = np.flatnonzero(_softmax_numerators(x) >= np.float32(params.min_p))
        x, ids = x[keep], keep if ids is None else ids[keep]
    return x, ids


def _top_k_candidates(x: Array, k: int) -> Ids | None:
    """Ids, in order, of a few of x (V,) that the k largest are among; None when x is small."""
    blocks = len(x) // _BLOCK_SIZE
    if len(x) <= _ONE_PASS_SIZE or k > blocks:
        return None
    maxima = x[: blocks * _BLOCK_SIZE].reshape(_BLOCK_SIZE, blocks).max(axis=0)
    _check_finite(np.append(maxima, x[blocks * _BLOCK_SIZE :]))
    border = _kth_largest(maxima, k)
    # Numbers that are this close may become equal when they are divided by the temperature.
    return np.flatnonzero(x >= border - abs(border) * np.float32(1e-6))


def _top_k(x: Array, k: int) -> Ids:
    """Ids, in order, of the k largest of x (V,) and of all that tie with the k-th; 0 < k < V."""
    if k >= len(x):
        return np.arange(len(x))
    blocks = len(x) // _BLOCK_SIZE
    if len(x) > _ONE_PASS_SIZE and k <= blocks:
        # At least k values reach the k-th largest block maximum, so only those can matter. The
        # blocks are columns (every blocks-th value): a maximum over rows is one vector sweep.
        maxima = x[: blocks * _BLOCK_SIZE].reshape(_BLOCK_SIZE, blocks).max(axis=0)
        ids: Ids = np.flatnonzero(x >= _kth_largest(maxima, k))
        values = x[ids]
        return ids[values >= _kth_largest(values, k)]
    return np.flatnonzero(x >= _kth_largest(x, k))


def _kth_largest(x: Array, k: int) -> np.float32:
    value: np.float32 = np.partition(x, len(x) - k)[len(x) - k]
    return value


def _top_p(x: Array, p: float) -> Ids:
    """Ids, in order, of the fewest largest of x (V,) whose probabilities reach p together.

    Of tokens that tie at the border the higher ids stay, as a stable ascending sort has it.
    """
    top = x.max()
    weights = np.exp(x - top)
    total = float(weights.sum())
    values = x
    if len(x) > _ONE_PASS_SIZE:
        # All the tokens below this floor hold less than 1 - p together: the border is above it.
        values = x[np.flatnonzero(weights >= np.float32(0.99 * (1.0 - p) * total / len(x)))]
    values = -np.sort(-values)  # likeliest first
    # A token stays while those likelier than it hold less than p; the first always does.
    weights = np.exp(values - top)
    count = 1 + _search_cumsum(weights, _block_cumsum(weights), p * total, "left")
    border = values[count - 1]
    keep = np.flatnonzero(x >= border)
    surplus = len(keep) - count
    if surplus > 0:
        ties = np.flatnonzero(x[keep] == border)
        keep = np.delete(keep, ties[:surplus])
    return keep


def _softmax_numerators(x: Array) -> Array:
    """Unnormalised probabilities, 1 for the largest logit: (K,) -> (K,)."""
    out: Array = np.exp(x - x.max())
    return out


def _sample_index(weights: Array, u: float) -> int:
    """Position whose share of the cumulative weights (K,) holds u, 0 <= u < 1."""
    if len(weights) <= _BLOCK_SIZE:
        sums = np.cumsum(weights, dtype=np.float64)
        position = int(sums.searchsorted(u * sums[-1], side="right"))
        return min(position, int(np.flatnonzero(weights)[-1]))
    sums = _block_cumsum(weights)
    return _search_cumsum(weights, sums, u * float(sums[-1]), "right")


def _search_cumsum(
    weights: Array, sums: NDArray[np.float64], target: float, side: Literal["left", "right"]
) -> int:
    """First position where the running sum of weights (K,) reaches (left) or passes (right).

    ``sums`` are their ``_block_cumsum``.
    """
    # Find the block first: a running sum over a whole vocabulary takes half a millisecond.
    block = min(int(np.searchsorted(sums, target, side=side)), len(sums) - 1)
    before = float(sums[block - 1]) if block else 0.0
    inside = weights[block * _BLOCK_SIZE : (block + 1) * _BLOCK_SIZE]
    position = int(np.searchsorted(np.cumsum(inside, dtype=np.float64), target - before, side=side))
    if position >= len(inside):  # rounding: the last token that has any weight
        position = int(np.flatnonzero(inside)[-1])
    return block * _BLOCK_SIZE + position


def _block_cumsum(weights: Array) -> NDArray[np.float64]:
    """Running sum (blocks,) of weights (K,) at the end of every block of 64."""
    whole = len(weights) // _BLOCK_SIZE * _BLOCK_SIZE
    # einsum adds four times as fast as sum(axis=1) and reduceat do.
    sums = np.einsum("ij->i", weights[:whole].reshape(-1, _BLOCK_SIZE))
    if whole < len(weights):
        sums = np.append(sums, weights[whole:].sum())
    return np.cumsum(sums, dtype=np.float64)
