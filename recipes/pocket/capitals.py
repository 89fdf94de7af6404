"""Whether a model names the capitals that it has read of, asked in words it has not read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from laplm.errors import InputError
from laplm.run.language_model import LanguageModel
from recipes.pocket.facts import Probe

TALK_PROMPT = "The capital of Spain is"
_MORE_TOKENS = 4  # an answer may come in other tokens than ours, and what follows should show


def read_probes(path: Path) -> list[Probe]:
    """The questions that ``make_corpus`` wrote.

    Raises:
        InputError: the file is missing, or a line is something else.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path} is missing; make the corpus first") from None
    probes = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            probes.append(Probe(record["prompt"], record["answer"], record["country"]))
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{path}, line {number}: not a prompt, an answer and a country; make the corpus "
                "again"
            ) from None
    return probes


def ask_capitals(lm: LanguageModel, probes: Sequence[Probe]) -> dict[str, Any]:
    """How many answers are right; what was said instead of the others, and to the talk's prompt."""
    misses = []
    for probe in probes:
        said = _say(lm, probe.prompt, probe.answer)
        if not begins_with(said, probe.answer):
            misses.append({"prompt": probe.prompt, "answer": probe.answer, "said": said})
    return {
        "asked": len(probes),
        "right": len(probes) - len(misses),
        "misses": misses,
        "talk": {"prompt": TALK_PROMPT, "said": _say(lm, TALK_PROMPT, "Madrid")},
    }


def begins_with(continuation: str, answer: str) -> bool:
    """Whether a space and the answer come first, and not as the beginning of a longer word."""
    rest = continuation.removeprefix(f" {answer}")
    return rest != continuation and not rest[:1].isalpha()


def _say(lm: LanguageModel, prompt: str, answer: str) -> str:
    """The likeliest continuation, with room for the answer."""
    n_tokens = len(lm.tokenizer.encode(f" {answer}")) + _MORE_TOKENS
    return lm.generate(prompt, n_tokens, temperature=0.0, slide=True).text
