"""How a text came about: each token, how likely it was, and which others it was drawn before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from laplm.look import figures, passes
from laplm.look.view import (
    Column,
    Model,
    Part,
    Passage,
    Span,
    Table,
    View,
    check_count,
    model_label,
)
from laplm.look.views.next_token import entropy
from laplm.look.words import percent, quoted
from laplm.model.engine.model import GPT
from laplm.model.families.ops import softmax
from laplm.model.tokenizer import StreamDecoder
from laplm.run.request import make_request
from laplm.run.sampler import SamplingParams, probabilities

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float32]
_DEFAULT = SamplingParams()
_BLOCK = 64  # positions whose logits are held at a time
_REASONS = {
    "length": "as many tokens as were asked for",
    "eos": "the model ended its text",
    "stop": "a stop string came",
    "interrupted": "interrupted",
}


@dataclass(frozen=True)
class Generation(View):
    """A continuation, token by token. N tokens were drawn, A alternatives are shown for each.

    Attributes:
        model: its name.
        prompt: what came before.
        text: what was generated; a stop string is not in it.
        params: how tokens were chosen; its seed gives the same text again.
        finish_reason: "length", "eos" or "stop".
        ids: the tokens drawn, (N,).
        labels: as text with white space made visible.
        pieces: the text that each token completed; they join to all that was drawn.
        probabilities: of each token in the model's own distribution, (N,).
        drawn_probabilities: the same in the distribution it was drawn from, after the sampling
            settings, (N,).
        ranks: its place among all tokens by the model's own probability, from 1, (N,).
        entropies: of the model's own distribution before each token, in bits, (N,).
        alternative_ids: the likeliest other tokens, (N, A).
        alternative_labels: as text with white space made visible.
        alternative_probabilities: in the model's own distribution, (N, A).
    """

    model: str
    prompt: str
    text: str
    params: SamplingParams
    finish_reason: str
    ids: NDArray[np.int64]
    labels: tuple[str, ...]
    pieces: tuple[str, ...]
    probabilities: Array
    drawn_probabilities: Array
    ranks: NDArray[np.int64]
    entropies: Array
    alternative_ids: NDArray[np.int64]
    alternative_labels: tuple[tuple[str, ...], ...]
    alternative_probabilities: Array

    def parts(self) -> list[Part]:
        """The text, coloured by probability; every token with what it was drawn before."""
        beaten = [
            "  ".join(f"{label} {p:.3f}" for label, p in zip(labels, row, strict=True))
            for labels, row in zip(
                self.alternative_labels, self.alternative_probabilities, strict=True
            )
        ]
        spans = [Span(self.prompt, None, "the prompt")]
        for piece, label, p, others in zip(
            self.pieces, self.labels, self.probabilities, beaten, strict=True
        ):
            spans.append(Span(piece, float(p), f"{label} {p:.3f}; others: {others}"))
        mean = float(self.entropies.mean())
        passage = Passage(
            title=f"{self.model} continues",
            spans=spans,
            note="Coloured by probability, from warm (unlikely) to cool (likely). "
            f"{len(self.ids)} tokens; ended: {_REASONS[self.finish_reason]}; "
            f"seed {self.params.seed}.",
        )
        table = Table(
            title="token by token",
            columns=[
                Column("token"), Column("id", label=True), Column("probability", 3, bar=True),
                Column("as drawn", 3), Column("rank", label=True), Column("entropy, bits", 2),
                Column("likeliest others"),
            ],
            rows=[
                [
                    self.labels[i], int(self.ids[i]), float(self.probabilities[i]),
                    float(self.drawn_probabilities[i]), int(self.ranks[i]),
                    float(self.entropies[i]), beaten[i],
                ]
                for i in range(len(self.ids))
            ],
            note="Probability, rank, entropy and the others are the model's own; “as drawn” is "
            f"after the sampling settings. Mean entropy {mean:.2f} bits.",
        )  # fmt: skip
        return [passage, table]

    def sentence(self) -> str:
        """See ``View``: how many tokens were the likeliest ones, and the least likely of all."""
        count, first = len(self.ids), int((self.ranks == 1).sum())
        least = int(self.probabilities.argmin())
        rank = int(self.ranks[least])
        token, chance = quoted(self.labels[least]), percent(float(self.probabilities[least]))
        place = "" if rank == 1 else f", in place {rank:,}"
        if count == 1:
            place = place or ", the likeliest"
            return f"1 token was drawn: {token} with {chance}{place}."
        mean = float(self.entropies.mean())
        return (
            f"{first} of {count} tokens {'were' if first != 1 else 'was'} the model's likeliest; "
            f"the least likely is {token} with {chance}{place}; the entropy is {mean:.2f} bits "
            "in the mean."
        )

    def plot(self) -> Figure:
        """Probability and entropy over the tokens."""
        others = self.alternative_probabilities
        return figures.token_columns(
            self.labels,
            {
                "probability": self.probabilities.tolist(),
                "entropy, bits": self.entropies.tolist(),
            },
            f"{self.model} continues “{figures.shorten_start(self.prompt)}”",
            dots=others[:, 0].tolist() if others.shape[1] else (),
            subtitle="dots: the likeliest other token; orange: entropy of the next token",
        )


def generation(
    model: Model,
    prompt: passes.Text,
    *,
    max_new_tokens: int = 20,
    alternatives: int = 3,
    temperature: float = _DEFAULT.temperature,
    top_k: int = _DEFAULT.top_k,
    top_p: float = _DEFAULT.top_p,
    min_p: float = _DEFAULT.min_p,
    repetition_penalty: float = _DEFAULT.repetition_penalty,
    seed: int | None = None,
    stop: str | Sequence[str] = (),
    ignore_eos: bool = False,
) -> Generation:
    """Continue a prompt and see, for each token, how likely it was and what else there was.

    The text is the one that ``LanguageModel.generate`` gives with the same settings and seed.

    Args:
        model: the model.
        prompt: the beginning.
        max_new_tokens: how many tokens to draw, at most.
        alternatives: how many other tokens to show for each; 0 for none.
        temperature: as in ``SamplingParams``, like the four after it.
        top_k: see above.
        top_p: see above.
        min_p: see above.
        repetition_penalty: see above.
        seed: the same seed gives the same text; None draws one.
        stop: strings that end the text.
        ignore_eos: go on when the model ends its text.

    Raises:
        ContextLengthError: prompt and request need more positions than the model has.
        InputError: the prompt is empty, or a setting is out of its range.
    """
    known = min(model.tokenizer.vocab_size, model.config.vocab_size)
    if alternatives != 0:
        alternatives = check_count("alternatives", alternatives, known - 1)
    prompt_ids = passes.encode(model, prompt)
    request = make_request(
        prompt_ids, model.tokenizer, model.config, max_new_tokens,
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
        repetition_penalty=repetition_penalty, seed=seed, stop=stop, ignore_eos=ignore_eos,
    )  # fmt: skip
    stream = passes.generate(model.gpt, model, request)
    (result,) = stream.results()
    ids = list(result.token_ids)
    own, drawn, ranks, bits, others, chances = [], [], [], [], [], []
    for i, logits in enumerate(logits_drawn_from(model.gpt, prompt_ids, ids)):
        p = softmax(logits[:known])
        after = probabilities(logits[:known], stream.params, [*prompt_ids, *ids[:i]])
        order = np.argsort(-p, kind="stable")
        other = order[order != ids[i]][:alternatives]
        own.append(p[ids[i]])
        drawn.append(after[ids[i]])
        ranks.append(int(np.flatnonzero(order == ids[i])[0]) + 1)
        bits.append(entropy(p))
        others.append(other)
        chances.append(p[other])
    return Generation(
        model=model_label(model),
        prompt=model.tokenizer.decode(prompt_ids),
        text=result.text,
        params=stream.params,
        finish_reason=result.finish_reason,
        ids=np.array(ids, np.int64),
        labels=tuple(passes.token_labels(model, ids)),
        pieces=pieces_of(model, ids),
        probabilities=np.array(own, np.float32),
        drawn_probabilities=np.array(drawn, np.float32),
        ranks=np.array(ranks, np.int64),
        entropies=np.array(bits, np.float32),
        alternative_ids=np.stack(others).astype(np.int64),
        alternative_labels=tuple(
            tuple(passes.token_labels(model, row.tolist())) for row in others
        ),
        alternative_probabilities=np.stack(chances),
    )  # fmt: skip


def logits_drawn_from(gpt: GPT, prompt_ids: Sequence[int], ids: Sequence[int]) -> Iterator[Array]:
    """The logits (V,) that each of ``ids`` was drawn from.

    They are worked out once more: the engine's numbers are the same however its tokens come, and
    so the loop that draws need not hold them.
    """
    cache = gpt.new_cache()
    if len(prompt_ids) > 1:
        gpt.forward(prompt_ids[:-1], cache, last_only=True)
    inputs = [prompt_ids[-1], *ids[:-1]]
    for start in range(0, len(inputs), _BLOCK):
        yield from gpt.forward(inputs[start : start + _BLOCK], cache)


def pieces_of(model: Model, ids: Sequence[int]) -> tuple[str, ...]:
    """The text that each token completes: none where it ends within a character."""
    decoder = StreamDecoder(model.tokenizer)
    pieces = [decoder.feed(i) for i in ids]
    pieces[-1] += decoder.flush()
    return tuple(pieces)
