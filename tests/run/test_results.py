"""What a finished sample tells: counts of tokens, seconds, speed."""

from __future__ import annotations

from pathlib import Path

import pytest

from laplm.run.language_model import LanguageModel
from laplm.run.results import Timings, Usage


def test_results_count_tokens_and_time(tiny_model_dir: Path) -> None:
    lm = LanguageModel(tiny_model_dir, "fp32", threads=1)
    stream = lm.stream("The capital of Spain is", 9, seed=1, samples=2, ignore_eos=True)
    results = [list(stream), stream.results()][1]
    for result in results:
        assert result.usage.completion_tokens == 9
        assert result.usage.total_tokens == 9 + len(result.prompt_token_ids)
        timings = result.timings
        assert 0 < timings.first_token_seconds < timings.seconds
        assert timings.tokens_per_second == pytest.approx(9 / timings.seconds)
        assert (result.precision, result.threads) == (lm.precision, lm.gpt.threads)
    assert stream.timings.tokens == 18
    assert stream.timings.seconds >= max(r.timings.seconds for r in results)


def test_counts_and_speed_follow_from_what_was_measured() -> None:
    assert Usage(3, 4, cached_tokens=2).total_tokens == 7
    assert Timings(10, 2.5, 0.5).tokens_per_second == 4
    assert Timings(0, 0.0, 0.0).tokens_per_second == 0, "nothing was drawn"
