"""What a model writes while something inside it is changed: texts and next tokens side by side.

Shapes: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError
from laplm.look import figures, passes
from laplm.look import target as targets
from laplm.look.view import Column, Model, Part, Table, View, model_label
from laplm.look.words import describe_change, percent, quoted
from laplm.model.weights import Tap
from laplm.run.request import GenerationRequest, make_request
from laplm.run.tapped import TappedGPT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float32]

_SHOWN = 10


class Written(NamedTuple):
    """What ``write_under`` gives for each tap.

    Attributes:
        texts: what the model wrote.
        candidates: the likeliest next tokens under any of the taps.
        probabilities: of the candidates, next after the prompt, (taps, candidates).
    """

    texts: list[str]
    candidates: list[str]
    probabilities: Array


@dataclass(frozen=True)
class Continuations(View):
    """Texts that a model writes as it is, and with changes inside.

    Attributes:
        model: the model's name.
        prompt: the text that is continued.
        changes: what was changed for each text.
        texts: what the model then wrote.
        seed: of the drawing of tokens, the same for each.
        candidates: the likeliest next tokens under any of the changes.
        probabilities: of the candidates, next after the prompt, (changes, candidates).
    """

    model: str
    prompt: str
    changes: list[str]
    texts: list[str]
    seed: int
    candidates: list[str]
    probabilities: Array

    def parts(self) -> list[Part]:
        """See ``View``: the texts, then the next token's probabilities side by side."""
        texts = Table(
            title=f"{self.model} continues “{self.prompt}”",
            columns=[Column("changed"), Column("text")],
            rows=list(zip(self.changes, self.texts, strict=True)),
            note=f"Seed {self.seed} for each.",
        )
        return [texts, next_table(self.prompt, self.changes, self.candidates, self.probabilities)]

    def sentence(self) -> str:
        """See ``View``: which next token changes most, under which change."""
        likeliest = [self.candidates[int(row.argmax())] for row in self.probabilities]
        before = self.probabilities[0]
        if len(self.changes) == 1:
            chance = percent(float(before.max()))
            return f"{quoted(likeliest[0])} is likeliest next, with {chance} ({self.changes[0]})."
        differences = np.abs(self.probabilities[1:] - before)
        i, most = (int(n) for n in np.unravel_index(differences.argmax(), differences.shape))
        change = describe_change(float(before[most]), float(self.probabilities[i + 1, most]))
        said = (
            f"Changed: {self.changes[i + 1]}; as the next token {quoted(self.candidates[most])} "
            f"{change}"
        )
        if likeliest[0] == likeliest[i + 1]:
            return f"{said}, and {quoted(likeliest[0])} stays the likeliest."
        return (
            f"{said}, and {quoted(likeliest[i + 1])} is likeliest, no longer "
            f"{quoted(likeliest[0])}."
        )

    def plot(self) -> Figure:
        """See ``View``: probabilities of the next token under each change."""
        return figures.grouped_bars(
            self.candidates,
            {
                change: row.tolist()
                for change, row in zip(self.changes, self.probabilities, strict=True)
            },
            f"{self.model}: next after “{figures.shorten_start(self.prompt)}”",
            value_label="probability",
        )


def next_table(
    prompt: str, names: Sequence[str], candidates: Sequence[str], probabilities: Array
) -> Table:
    """Probabilities (names, candidates) of the next token, a column for each name."""
    return Table(
        title=f"Next after “{prompt}”",
        columns=[Column("token"), *(Column(name, digits=3, bar=True) for name in names)],
        rows=[
            [token, *(float(p) for p in probabilities[:, i])] for i, token in enumerate(candidates)
        ],
    )


def continuations(
    model: Model,
    text: passes.Text,
    changes: Mapping[str, Tap | None],
    *,
    max_new_tokens: int = 30,
    temperature: float = 0.8,
    top_k: int = 40,
    seed: int = 1,
) -> Continuations:
    """Continue a prompt under each of several taps.

    Args:
        model: the model.
        text: the prompt.
        changes: what each tap does, in words, and the tap; None is the model as it is.
        max_new_tokens: tokens to write for each.
        temperature: as in ``laplm run``.
        top_k: as in ``laplm run``.
        seed: as in ``laplm run``; the same for each.

    Raises:
        ContextLengthError: the prompt, or the new tokens after it, do not fit in the context.
        InputError: a setting is out of range, the prompt is empty, or no change is named.
    """
    if not changes:
        raise InputError("no change is named; None is the model as it is")
    ids = passes.encode(model, text)
    request = make_request(
        ids, model.tokenizer, model.config, max_new_tokens,
        temperature=temperature, top_k=top_k, seed=seed,
    )  # fmt: skip
    written = write_under(model, request, list(changes.values()))
    prompt = model.tokenizer.decode(ids)
    return Continuations(
        model_label(model), prompt, list(changes), written.texts, seed, *written[1:]
    )


def write_under(model: Model, request: GenerationRequest, taps: Sequence[Tap | None]) -> Written:
    """The text of a request under each tap, and what comes next."""
    texts, rows = [], []
    for tap in taps:
        rows.append(passes.forward(model, request.prompt_ids, tap, last_only=True)[0])
        engine = model.gpt if tap is None else TappedGPT(model.gpt, passes.cancellable_tap(tap))
        stream = passes.generate(engine, model, request)
        texts.append(stream.results()[0].text)
    known = targets.probabilities(np.stack(rows))[:, : model.tokenizer.vocab_size]
    best = targets.likeliest(known, _SHOWN)
    return Written(texts, passes.token_labels(model, best.tolist()), known[:, best])
