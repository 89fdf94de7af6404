"""What an intervention is measured by: the logit of one token, or its difference from another's."""

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
        contrast_id: the other token's id, or None.
        contrast: the other token's text, or None.
    """

    token_id: int
    token: str
    contrast_id: int | None = None
    contrast: str | None = None

    def logit_diff(self, logits: Array) -> Array:
        """The logit of the token, less the contrast's when there is one: (..., V) -> (...)."""
        out: Array = logits[..., self.token_id]
        return out if self.contrast_id is None else out - logits[..., self.contrast_id]


def logit_diff_name(token: str, contrast: str | None) -> str:
    """What ``Target.logit_diff`` measures, in words."""
    return f"logit of “{token}”" + (f" less that of “{contrast}”" if contrast is not None else "")


def choose(
    model: Model, logits: Array, target: str | None = None, contrast: str | None = None
) -> Target:
    """The target that was asked for, or else the token that the model finds likeliest.

    Args:
        model: the model.
        logits: of the prompt's last position, (V,).
        target: one token, with its space: " Madrid".
        contrast: another, or None.

    Raises:
        InputError: one of the two is not a single token, or both are the same.
    """
    token_id = passes.one_token(model, target) if target is not None else best(model, logits)
    contrast_id = passes.one_token(model, contrast) if contrast is not None else None
    labels = passes.token_labels(
        model, [token_id] if contrast_id is None else [token_id, contrast_id]
    )
    if token_id == contrast_id:
        raise InputError(f"“{labels[0]}” is compared with itself; choose another token for one")
    return Target(token_id, labels[0], contrast_id, labels[1] if len(labels) > 1 else None)


def best(model: Model, logits: Array) -> int:
    """The likeliest token that the tokenizer knows; a vocabulary may be padded beyond it."""
    return int(logits[: model.tokenizer.vocab_size].argmax())


def likeliest(every: Array, k: int) -> NDArray[np.int64]:
    """The k tokens of greatest probability in any of several distributions (N, V), greatest first.

    The likeliest of each distribution is among them, also where all k of another are likelier.
    """
    highest = every.max(axis=0)
    order = np.argsort(-highest, kind="stable")
    leading = list(dict.fromkeys(every.argmax(axis=-1).tolist()))
    others = order[~np.isin(order, leading)][: max(0, k - len(leading))]
    return order[np.isin(order, [*leading, *others])]


def probabilities(logits: Array) -> Array:
    """Softmax over the vocabulary: (..., V) -> (..., V)."""
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    out: Array = e / e.sum(axis=-1, keepdims=True)
    return out
