"""How well a model predicts the held-out text, source by source, in each precision."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from laplm.model.engine.quantize import Precision
from laplm.run.evaluate import Document, Progress, perplexity
from laplm.run.language_model import LanguageModel
from recipes.pocket.baseline import Documents, group_of


@dataclass(frozen=True)
class Score:
    """How well a model predicted one source, or several.

    Attributes:
        documents: how many.
        tokens: tokens scored.
        bytes: UTF-8 bytes of those tokens.
        nats: sum of their negative log-likelihoods.
    """

    documents: int
    tokens: int
    bytes: int
    nats: float

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers."""
        return self.nats / math.log(2) / self.bytes

    @property
    def perplexity(self) -> float:
        """Per token."""
        return math.exp(self.nats / self.tokens)

    def __add__(self, other: Score) -> Score:
        """Both together."""
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return Score(*(a + b for a, b in zip(mine, theirs, strict=True)))


def score_sources(
    lm: LanguageModel, heldout: Mapping[str, Documents], progress: Progress | None = None
) -> dict[str, Score]:
    """The score of every source, as ``laplm eval --window`` n_ctx gives it for the same texts."""
    scores = {}
    sources = {name: texts for group in heldout.values() for name, texts in group.items()}
    for done, (name, texts) in enumerate(sources.items()):
        if progress:
            progress(f"held-out text, {lm.precision}", done, len(sources))
        documents = [Document(name, text) for text in texts]
        found = perplexity(lm, documents, window=lm.config.n_ctx)
        scores[name] = Score(
            found.documents, found.tokens, found.bytes, found.negative_log_likelihood
        )
    if progress:
        progress(f"held-out text, {lm.precision}", len(sources), len(sources))
    return scores


def bits_report(
    scores: Mapping[str, Score], baselines: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """Bits per byte beside the baselines': the sources of a group, then the group together."""
    groups: dict[str, dict[str, Score]] = {}
    for name, score in scores.items():
        groups.setdefault(group_of(name), {})[name] = score
    report: dict[str, Any] = {}
    for group, rows in groups.items():
        together = sum(rows.values(), Score(0, 0, 0, 0.0))
        for name, score in {**rows, group: together}.items():
            best = min(baselines[name].values())
            report[name] = {
                "group": group,
                "documents": score.documents,
                "tokens": score.tokens,
                "bytes": score.bytes,
                "bits_per_byte": round(score.bits_per_byte, 4),
                **baselines[name],
                "below_best_baseline_percent": round(100 * (1 - score.bits_per_byte / best), 1),
            }
    return report


def precision_report(scores: Mapping[Precision, Mapping[str, Score]]) -> dict[str, Any]:
    """Perplexity of all sources together by precision, and how much more it is than fp32's."""
    together = {
        precision: sum(by_source.values(), Score(0, 0, 0, 0.0))
        for precision, by_source in scores.items()
    }
    exact = together["fp32"].perplexity
    return {
        precision: {
            "perplexity": round(score.perplexity, 4),
            "more_than_fp32_percent": round(100 * (score.perplexity / exact - 1), 3),
        }
        for precision, score in together.items()
    }
