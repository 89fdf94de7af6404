"""Steering: a direction added to the residual stream, and the text that the model then writes.

The direction is the difference between the residual streams of two prompts at a layer, each after
its last token, or between the means over two sets of prompts; a multiple of it is added at every
position. Sources: Turner et al. 2023, "Steering Language Models With Activation Engineering" (the
difference of two prompts); Rimsky et al. 2024, "Steering Llama 2 via Contrastive Activation
Addition", section 3 (mean difference over a set, last token, every position).

Shapes: C n_embd.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError
from laplm.look import figures, passes
from laplm.look.view import Column, Model, Part, Table, View, model_label, visible
from laplm.look.views.continuations import next_table, write_under
from laplm.look.words import describe_change, percent, quoted
from laplm.model.weights import Tap
from laplm.run.request import make_request

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float32]
_LARGEST = 1_000_000  # coefficient; a thousand already drowns what the model has


@dataclass(frozen=True)
class Steering(View):
    """Texts that the model writes with more or less of a direction.

    Attributes:
        model: the model's name.
        prompt: the text that is continued.
        towards: the prompts that the direction leads to.
        away_from: the prompts that it leads away from.
        layer: where it is added, before the layer's attention.
        coefficients: how much of it was added; 0 is the model as it is.
        texts: what the model wrote for each coefficient.
        seed: of the drawing of tokens, the same for each.
        direction: (C,).
        direction_norm: its length.
        residual_norm: length of the prompt's own residual stream at that layer, mean of positions.
        candidates: the likeliest next tokens of any coefficient.
        probabilities: of the candidates, next after the prompt, (coefficients, candidates).
    """

    model: str
    prompt: str
    towards: list[str]
    away_from: list[str]
    layer: int
    coefficients: list[float]
    texts: list[str]
    seed: int
    direction: Array
    direction_norm: float
    residual_norm: float
    candidates: list[str]
    probabilities: Array

    def parts(self) -> list[Part]:
        """See ``View``: the texts, then the next token's probabilities side by side."""
        texts = Table(
            title=f"{self.model}: text steered from {_named(self.away_from)} to "
            f"{_named(self.towards)}",
            columns=[Column("coefficient"), Column("text")],
            rows=[
                [_format_coefficient(c), text]
                for c, text in zip(self.coefficients, self.texts, strict=True)
            ],
            note=f"Added before layer {self.layer} at every position. The direction's length is "
            f"{self.direction_norm:.1f}, the residual stream's there {self.residual_norm:.1f}.",
        )
        amounts = [_format_coefficient(c) for c in self.coefficients]
        return [texts, next_table(self.prompt, amounts, self.candidates, self.probabilities)]

    def sentence(self) -> str:
        """See ``View``: which next token changes most from the least to the largest coefficient."""
        order = np.argsort(self.coefficients, kind="stable")
        low, high = int(order[0]), int(order[-1])
        likeliest = [self.candidates[int(row.argmax())] for row in self.probabilities]
        where = f"before layer {self.layer}"
        if self.coefficients[low] == self.coefficients[high]:
            chance = percent(float(self.probabilities[high].max()))
            return (
                f"With {_format_coefficient(self.coefficients[high])} of the direction {where} "
                f"{quoted(likeliest[high])} is likeliest next, with {chance}."
            )
        before, after = self.probabilities[low], self.probabilities[high]
        most = int(np.abs(after - before).argmax())
        amounts = [_format_coefficient(self.coefficients[i]) for i in (low, high)]
        change = describe_change(float(before[most]), float(after[most]))
        said = (
            f"From {amounts[0]} to {amounts[1]} of the direction {where} "
            f"{quoted(self.candidates[most])} {change} as the next token, and changes most"
        )
        if likeliest[low] == likeliest[high]:
            return f"{said}; {quoted(likeliest[low])} is likeliest at both."
        return (
            f"{said}; {quoted(likeliest[low])} is likeliest at {amounts[0]}, "
            f"{quoted(likeliest[high])} at {amounts[1]}."
        )

    def plot(self) -> Figure:
        """See ``View``: probabilities of the next token for each coefficient."""
        return figures.grouped_bars(
            self.candidates,
            {
                _format_coefficient(c): row.tolist()
                for c, row in zip(self.coefficients, self.probabilities, strict=True)
            },
            f"{self.model}: next after “{self.prompt}”, steered from {_named(self.away_from)} "
            f"to {_named(self.towards)} at layer {self.layer}",
            value_label="probability",
        )


def _format_coefficient(coefficient: float) -> str:
    return f"{coefficient:+g}" if coefficient else "0"


def _named(prompts: Sequence[str]) -> str:
    """A prompt, or the first of several and how many there are."""
    first = f"“{figures.shorten_start(visible(prompts[0]))}”"
    return first if len(prompts) == 1 else f"{len(prompts):,} texts ({first}, …)"


def direction(
    model: Model, towards: str | Sequence[str], away_from: str | Sequence[str], *, layer: int
) -> Array:
    """The difference of prompts' residual streams before a layer, after their last tokens.

    Args:
        model: the model.
        towards: a prompt, or several, of which the mean is taken.
        away_from: the same.
        layer: where.

    Returns:
        (C,).

    Raises:
        ContextLengthError: a prompt has more tokens than the model has positions.
        InputError: the layer is not there, a prompt is empty or there is none, or both sides end
            in the same stream.
    """
    passes.check_layer(model, layer)
    difference: Array = _mean_end(model, towards, layer) - _mean_end(model, away_from, layer)
    if not difference.any():
        raise InputError("the two prompts give no direction: they are the same to the model there")
    return difference


def _mean_end(model: Model, prompts: str | Sequence[str], layer: int) -> Array:
    """The residual stream before a layer after a prompt's last token, or the mean of several."""
    texts = _listed(prompts)
    if not texts:
        raise InputError("there is no prompt to steer by; give at least one on each side")
    ends = [
        passes.last_position(model, passes.encode(model, text), ["resid_pre"])["resid_pre", layer]
        for text in texts
    ]
    return np.asarray(np.mean(ends, axis=0, dtype=np.float64), np.float32)


def _listed(prompts: str | Sequence[str]) -> list[str]:
    return [prompts] if isinstance(prompts, str) else list(prompts)


def steering_tap(direction: Array, *, layer: int, coefficient: float) -> Tap:
    """A tap that adds a multiple of a direction (C,) before a layer, at every position."""
    added = np.asarray(direction, np.float32) * np.float32(coefficient)

    def tap(name: str, at: int | None, x: Array) -> Array | None:
        return x + added if (name, at) == ("resid_pre", layer) else None

    return tap


def steer(
    model: Model,
    text: str,
    towards: str | Sequence[str],
    away_from: str | Sequence[str],
    *,
    layer: int | None = None,
    coefficients: Sequence[float] = (-1.0, 0.0, 1.0),
    max_new_tokens: int = 30,
    temperature: float = 0.8,
    top_k: int = 40,
    seed: int = 1,
) -> Steering:
    """Continue a prompt with several amounts of a direction between other prompts.

    Args:
        model: the model.
        text: the prompt to continue.
        towards: the prompt that positive coefficients lead to, such as " happy"; of several the
            mean.
        away_from: the prompt that they lead away from, such as " sad"; of several the mean.
        layer: where the direction is taken and added; None means the one in the middle.
        coefficients: how much of it to add; 0 is the model as it is.
        max_new_tokens: tokens to write for each.
        temperature: as in ``laplm run``.
        top_k: as in ``laplm run``.
        seed: as in ``laplm run``; the same for each coefficient.

    Raises:
        ContextLengthError: a prompt, or the new tokens after it, do not fit in the context.
        InputError: a setting is out of range, a prompt is empty, or there is no direction.
    """
    if not coefficients or not all(math.isfinite(c) for c in coefficients):
        raise InputError("coefficients must be at least one number, such as 0 and 1")
    if max(map(abs, coefficients)) > _LARGEST:
        raise InputError(
            f"coefficient is {max(coefficients, key=abs):g}, but it must be a number from "
            f"-{_LARGEST:,} to {_LARGEST:,}: far less drowns everything else"
        )
    at = model.config.n_layer // 2 if layer is None else passes.check_layer(model, layer)
    ids = passes.encode(model, text)
    request = make_request(
        ids, model.tokenizer, model.config, max_new_tokens,
        temperature=temperature, top_k=top_k, seed=seed,
    )  # fmt: skip
    along = direction(model, towards, away_from, layer=at)
    own = passes.run_with_cache(model, ids, ["resid_pre"])["resid_pre", at]
    taps = [steering_tap(along, layer=at, coefficient=c) for c in coefficients]
    written = write_under(model, request, taps)
    return Steering(
        model=model_label(model),
        prompt=text,
        towards=_listed(towards),
        away_from=_listed(away_from),
        layer=at,
        coefficients=[float(c) for c in coefficients],
        texts=written.texts,
        seed=seed,
        direction=along,
        direction_norm=float(np.linalg.norm(along)),
        residual_norm=float(np.linalg.norm(own, axis=-1).mean()),
        candidates=written.candidates,
        probabilities=written.probabilities,
    )
