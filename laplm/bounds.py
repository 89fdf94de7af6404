"""How large the numbers that people set may be, and why: one list for Python, commands and HTTP."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from laplm.errors import InputError


@dataclass(frozen=True)
class Bounds:
    """What a number may be, in JSON Schema's words.

    Attributes:
        minimum: the smallest that it may be, or must be above.
        maximum: the largest that it may be, or must be below.
        reason: what would be wrong beyond ``maximum``.
        integer: whether it must be a whole number.
        exclusive_minimum: whether it must be more than ``minimum``.
        exclusive_maximum: whether it must be less than ``maximum``.
    """

    minimum: float
    maximum: float
    reason: str
    integer: bool = True
    exclusive_minimum: bool = False
    exclusive_maximum: bool = False

    def check(self, name: str, value: Any) -> int | float:
        """The value as Python's own number.

        Raises:
            InputError: it is no such number.
        """
        kind = numbers.Integral if self.integer else numbers.Real
        if isinstance(value, kind) and not isinstance(value, bool) and self._holds(value):
            number: int | float = int(value) if self.integer else float(value)  # type: ignore[call-overload]
            return number
        raise InputError(
            f"{name} is {_shown(value)}, but it must be {self.description}: {self.reason}"
        )

    def _holds(self, value: Any) -> bool:
        low = value > self.minimum if self.exclusive_minimum else value >= self.minimum
        return bool(
            low and (value < self.maximum if self.exclusive_maximum else value <= self.maximum)
        )

    @property
    def description(self) -> str:
        """What may be, in words."""
        low = "above" if self.exclusive_minimum else "from"
        text = f"a {'whole ' * self.integer}number {low} {self.minimum:,}"
        if math.isinf(self.maximum):
            return text
        high = "below" if self.exclusive_maximum else "up to"
        return f"{text} {'and ' * self.exclusive_minimum}{high} {self.maximum:,.15g}"


_SHARE = "all of it would be dropped"
_STEPS = "at a thousand steps a second, more would take weeks"
_MEASURING = "nobody looks at so many measurements"

# Of ``laplm tune``: by the names that TuneConfig, LoRAConfig, TrainConfig and HTTP have for them.
TUNING: dict[str, Bounds] = {
    "epochs": Bounds(
        0, 1e6, "nothing is left to learn long before", integer=False, exclusive_minimum=True
    ),
    "max_steps": Bounds(1, 10**9, _STEPS),
    "batch_size": Bounds(1, 1 << 16, "no machine holds more windows at once"),
    "grad_accum_steps": Bounds(1, 1 << 16, "all batches of a step are drawn before it begins"),
    "n_positions": Bounds(1, 1 << 20, "no model of this kind has more positions"),
    "learning_rate": Bounds(
        0, 1, "each step moves a weight by about as much, and weights are smaller",
        integer=False, exclusive_minimum=True,
    ),
    "final_learning_rate": Bounds(
        0, 1, "each step moves a weight by about as much, and weights are smaller", integer=False
    ),
    "warmup_steps": Bounds(0, 10**9, _STEPS),
    "weight_decay": Bounds(0, 1, "weights would be turned around", integer=False),
    "beta1": Bounds(0, 1, "no gradient would count", integer=False, exclusive_maximum=True),
    "beta2": Bounds(0, 1, "no gradient would count", integer=False, exclusive_maximum=True),
    "dropout": Bounds(0, 1, _SHARE, integer=False, exclusive_maximum=True),
    "lora_dropout": Bounds(0, 1, _SHARE, integer=False, exclusive_maximum=True),
    "grad_clip": Bounds(
        0, math.inf, "gradients would vanish or turn", integer=False, exclusive_minimum=True
    ),
    "heldout": Bounds(
        0, 100, "it is the percentage of documents that is only measured on", integer=False,
        exclusive_minimum=True, exclusive_maximum=True,
    ),
    "heldout_share": Bounds(
        0, 1, "some documents are trained on and some only measured on", integer=False,
        exclusive_minimum=True, exclusive_maximum=True,
    ),
    "evaluations": Bounds(1, 10**6, _MEASURING),
    "eval_interval": Bounds(1, 10**9, _STEPS),
    "eval_windows": Bounds(1, 10**6, _MEASURING),
    "log_interval": Bounds(1, 10**9, _STEPS),
    "patience": Bounds(0, 10**6, _MEASURING),
    "checkpoint_seconds": Bounds(0, 1e9, "a checkpoint would never be written", integer=False),
    "seed": Bounds(0, (1 << 32) - 1, "numpy's and torch's generators take no other"),
    "rank": Bounds(1, 1 << 16, "no matrix of a model has a higher rank"),
    "alpha": Bounds(
        0, 1e6, "adapters would drown the model", integer=False, exclusive_minimum=True
    ),
    "threads": Bounds(1, 256, "more only wait for each other"),
}  # fmt: skip

STEP_TOKENS = 1 << 24
"""Tokens of a step: GPT-3's largest batch had 3.2 million (Brown et al. 2020, table 2.1)."""


def check_fields(config: Any, names: Iterable[str]) -> None:
    """Check those fields of a frozen dataclass that are not None, and make them Python's numbers.

    Raises:
        InputError: one is out of its bounds.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None:
            object.__setattr__(config, name, TUNING[name].check(name, value))


def check_step(batch_size: int, grad_accum_steps: int, n_positions: int) -> None:
    """Refuse steps whose batches would not fit into memory before anything is computed.

    Raises:
        InputError: they have more than ``STEP_TOKENS`` tokens.
    """
    tokens = batch_size * grad_accum_steps * n_positions
    if tokens > STEP_TOKENS:
        raise InputError(
            f"a step of {batch_size:,} × {grad_accum_steps:,} windows of {n_positions:,} tokens "
            f"has {tokens:,} of them, but at most {STEP_TOKENS:,} are drawn at once: choose a "
            "smaller batch, or fewer of them a step"
        )


def _shown(value: Any) -> str:
    try:
        text = repr(value.item() if hasattr(value, "item") else value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "too long to be written"
    return text if len(text) <= 40 else f"{text[:39]}…"
