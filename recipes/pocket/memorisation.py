"""Whether a model writes or copies: the longest run of words that a text shares with another."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from laplm.errors import InputError
from laplm.run.evaluate import Progress
from laplm.run.language_model import LanguageModel
from laplm.tune.memorisation import Span, longest_copied_spans
from recipes.pocket.samples import draw

N_SAMPLES = 200
PROMPT_WORDS = 8
_LEAST_WORDS = 20  # of a story, after its prompt
_LONG = (20, 50)
_PROMPT = re.compile(rf"\s*(?:\S+\s+){{{PROMPT_WORDS - 1}}}\S+")


def copying(
    lm: LanguageModel,
    stories: Sequence[str],
    train: Iterable[str],
    n_samples: int = N_SAMPLES,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """How much samples copy from the training text, beside stories that were not trained on.

    The samples continue the first words of the stories; the stories' own continuations, cut to
    as many words, show how much any text of this kind shares with another.

    Raises:
        InputError: no story is long enough to be continued.
    """
    openings = [(text, match.end()) for text in stories if (match := _PROMPT.match(text))]
    openings = [(text, at) for text, at in openings if len(text[at:].split()) >= _LEAST_WORDS]
    openings = openings[:n_samples]
    if not openings:
        raise InputError(
            f"no held-out story has {PROMPT_WORDS + _LEAST_WORDS} words; hold out more text"
        )
    ours, theirs = [], []
    for number, (text, at) in enumerate(openings):
        if progress:
            progress("samples", number, len(openings))
        # Where there are fewer stories than samples, each is continued more than once.
        n = len(range(number, n_samples, len(openings)))
        for sample in draw(lm, text[:at], n, seed=number):
            ours.append(sample.continuation)
            theirs.append(_first_words(text[at:], len(sample.continuation.split())))
    if progress:
        progress("samples", len(openings), len(openings))
    spans = longest_copied_spans([*ours, *theirs], train)
    return {
        "samples": len(ours),
        "prompt_words": PROMPT_WORDS,
        "model": _summary(spans[: len(ours)]),
        "heldout": _summary(spans[len(ours) :]),
    }


def _first_words(text: str, n: int) -> str:
    match = re.match(rf"(?:\s*\S+){{0,{n}}}", text)
    assert match is not None
    return match.group()


def _summary(spans: Sequence[Span]) -> dict[str, Any]:
    words = [span.words for span in spans]
    over = {f"over_{n}_words_percent": sum(w > n for w in words) / len(words) for n in _LONG}
    longest = max(spans, key=lambda span: (span.words, span.characters))
    return {
        "median_words": statistics.median(words),
        "max_words": max(words),
        "median_characters": statistics.median(span.characters for span in spans),
        "max_characters": max(span.characters for span in spans),
        **{name: round(100 * share, 1) for name, share in over.items()},
        "longest": longest.text,
    }
