"""Whether samples are English: words of a word list, sentences that are not said over again."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from spellchecker import SpellChecker

from laplm.run.language_model import LanguageModel

PROMPTS = (
    "Once upon a time",
    "Once upon a time, there was a little girl",
    "One day, a boy named Tim",
    "The dog and the cat",
    "Lily's mom said,",
)
SAMPLES_PER_PROMPT = 4
SAMPLE_TOKENS = 120
TEMPERATURE = 0.8

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_SENTENCE = re.compile(r"[^.!?]+[.!?]+[\"'”’]*|[^.!?]+$")
# In the middle of a sentence only a name, a title or "I" has a capital letter.
_IN_A_SENTENCE = re.compile(r"(?<=[a-z,] )[^\W\d_]+")
# The word list's one- and two-letter words are mostly abbreviations.
_SHORT_WORDS = (
    " a i o ah am an as at be by do eh go ha he hi if in is it ma me mm mr ms my no of oh ok on or "
    "ow ox pa so to tv uh um up us we yo "
)


@dataclass(frozen=True)
class Sample:
    """A prompt and how the model went on.

    Attributes:
        prompt: what the model was given.
        seed: with the prompt and ``number`` it gives the same text again.
        number: which of the samples drawn together.
        continuation: what the model wrote, without a word that its end may have cut.
    """

    prompt: str
    seed: int
    number: int
    continuation: str

    @property
    def text(self) -> str:
        """Prompt and continuation."""
        return self.prompt + self.continuation


def draw(
    lm: LanguageModel, prompt: str, n: int = SAMPLES_PER_PROMPT, *, seed: int = 0
) -> list[Sample]:
    """``n`` samples of a prompt, as ``laplm run --samples`` draws them at temperature 0.8."""
    results = lm.samples(prompt, n, SAMPLE_TOKENS, temperature=TEMPERATURE, seed=seed, slide=True)
    return [
        Sample(
            prompt,
            seed,
            result.sample,
            result.text if result.finish_reason != "length" else _without_last_word(result.text),
        )
        for result in results
    ]


def _without_last_word(text: str) -> str:
    match = re.search(r"[\w'’]+$", text)
    return text[: match.start()] if match else text


@dataclass(frozen=True)
class WordCheck:
    """What share of a text's words are English.

    Attributes:
        words: words the model wrote, in all samples.
        in_list: those in the word list.
        names: those that are not, but are names in the training text.
        unknown: the others, as they were written, the most frequent first.
    """

    words: int
    in_list: int
    names: int
    unknown: tuple[str, ...]

    @property
    def share_in_list(self) -> float:
        """Names that the word list lacks count as wrong."""
        return self.in_list / max(1, self.words)

    @property
    def share_with_names(self) -> float:
        """Names of the training text count as right."""
        return (self.in_list + self.names) / max(1, self.words)


def check_words(samples: Iterable[Sample], names: frozenset[str]) -> WordCheck:
    """Look up every word of the continuations; ``names`` as from ``find_names``."""
    found = [
        match.group()
        for sample in samples
        for match in _WORD.finditer(sample.text)
        if match.end() > len(sample.prompt)
    ]
    missing = [word for word in found if not is_english(word)]
    unknown = [word for word in missing if _stem(word) not in names]
    return WordCheck(
        words=len(found),
        in_list=len(found) - len(missing),
        names=len(missing) - len(unknown),
        unknown=tuple(word for word, _ in Counter(unknown).most_common()),
    )


def is_english(word: str) -> bool:
    """Whether the word list of ``pyspellchecker`` has a word, also without its "'s".

    The list has inflected forms, contractions and common first names; its spelling is American.
    """
    return any(
        f" {form} " in _SHORT_WORDS if len(form) < 3 else form in _word_list()
        for form in (word.lower().replace("’", "'"), _stem(word).lower())
    )


@cache
def _word_list() -> SpellChecker:
    return SpellChecker(language="en")


def _stem(word: str) -> str:
    return re.sub(r"['’]s?$", "", word)


def samples_report(samples: Sequence[Sample], train: Iterable[str]) -> dict[str, Any]:
    """Whether samples are English, for ``evaluation.json``."""
    words = check_words(samples, find_names(train))
    repeated = [most_repeated_sentence(sample.text) for sample in samples]
    sentence, times = max(repeated, key=lambda found: found[1])
    return {
        "samples": len(samples),
        "temperature": TEMPERATURE,
        "tokens": SAMPLE_TOKENS,
        "words": words.words,
        "in_word_list_percent": round(100 * words.share_in_list, 2),
        "in_word_list_or_names_percent": round(100 * words.share_with_names, 2),
        "unknown_words": list(words.unknown),
        "with_a_sentence_three_times": sum(n >= 3 for _, n in repeated),
        "most_repeated_sentence": {"sentence": sentence, "times": times},
    }


def find_names(documents: Iterable[str]) -> frozenset[str]:
    """Words that occur in the middle of sentences with a capital letter nine times out of ten."""
    counts = Counter(word for text in documents for word in _IN_A_SENTENCE.findall(text))
    return frozenset(
        word
        for word, n in counts.items()
        if word.istitle() and n >= 2 and n >= 9 * counts[word.lower()]
    )


def most_repeated_sentence(text: str) -> tuple[str, int]:
    """The sentence that a text says most often, and how often.

    Case, quotation marks and how it ends make no difference.
    """
    sentences = [" ".join(s.split()).strip("\"'“”‘’.!? ") for s in _SENTENCE.findall(text)]
    counts = Counter(sentence.lower() for sentence in sentences if sentence)
    if not counts:
        return "", 0
    sentence, n = counts.most_common(1)[0]
    return next(s for s in sentences if s.lower() == sentence), n


def show(samples: Sequence[Sample]) -> str:
    """Samples for a person to read, each under a line that says how to get it again."""
    return "\n\n".join(
        f"--- {sample.prompt!r}, seed {sample.seed}, sample {sample.number + 1}\n"
        f"{sample.text.rstrip()}"
        for sample in samples
    )
