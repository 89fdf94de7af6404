"""What an intervention is measured by: the logit of one token, or its lead over another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError
from laplm.look import passes
from laplm.look.view import Model

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Target:
    """The token whose logit is followed, and the one it is compared with.

    Attributes:
        token_id: its id.
        token: its text, white space made visible.
        against_id: the other token's id, or None.
        against: the other token's text, or None.
    """

    token_id: int
    token: str
    against_id: int | None = None
    against: str | None = None

    def score(self, logits: Array) -> Array:
        """The logit of the token, less the other's when there is one: (..., V) -> (...)."""
        out: Array = logits[..., self.token_id]
        return out if self.against_id is None else out - logits[..., self.against_id]


def score_name(token: str, against: str | None) -> str:
    """The score of a target in words."""
    return f"logit of “{token}”" + (f" less that of “{against}”" if against is not None else "")


def choose(
    model: Model, logits: Array, target: str | None = None, against: str | None = None
) -> Target:
    """The target that was asked for, or else the token that the model finds likeliest.

    Args:
        model: the model.
        logits: of the prompt's last position, (V,).
        target: one token, with its space: " Madrid".
        against: another, or None.

    Raises:
        InputError: one of the two is not a single token, or both are the same.
    """
    token_id = passes.one_token(model, target) if target is not None else best(model, logits)
    against_id = passes.one_token(model, against) if against is not None else None
    labels = passes.token_labels(
        model, [token_id] if against_id is None else [token_id, against_id]
    )
    if token_id == against_id:
        raise InputError(f"“{labels[0]}” is compared with itself; choose another token for one")
    return Target(token_id, labels[0], against_id, labels[1] if len(labels) > 1 else None)


def best(model: Model, logits: Array) -> int:
    """The likeliest token that the tokenizer knows; a vocabulary may be padded beyond it."""
    return int(logits[: model.tokenizer.vocab_size].argmax())


def probabilities(logits: Array) -> Array:
    """Softmax over the vocabulary: (..., V) -> (..., V)."""
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    out: Array = e / e.sum(axis=-1, keepdims=True)
    return out
