"""Generation under a tap, against generation without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laplm.errors import InputError
from laplm.run.language_model import LanguageModel

PROMPT = "Once upon a time"


@pytest.fixture(scope="module", params=["fp32", "int8"])
def model(request: pytest.FixtureRequest, tiny_model_dir: Path) -> LanguageModel:
    return LanguageModel(tiny_model_dir, request.param)


def no_attention(name: str, layer: int | None, x: np.ndarray) -> np.ndarray | None:
    return np.zeros_like(x) if name == "attn_out" else None


def test_a_tap_that_only_watches_sees_the_prompt_and_each_token(model: LanguageModel) -> None:
    seen: list[int] = []

    def watch(name: str, layer: int | None, x: np.ndarray) -> None:
        if name == "embed":
            seen.append(len(x))

    result = model.generate(PROMPT, 8, seed=1, ignore_eos=True, tap=watch)
    assert seen == [len(result.prompt_token_ids), *[1] * 7]


def test_a_tap_that_changes_nothing_changes_no_text(pocket: LanguageModel) -> None:
    plain = pocket.generate(PROMPT, 20, temperature=0)
    tapped = pocket.generate(PROMPT, 20, temperature=0, tap=lambda *_: None)
    assert tapped.text == plain.text
    np.testing.assert_allclose(tapped.logprobs, plain.logprobs, rtol=0, atol=1e-4)


def test_what_a_tap_changed_stays_out_of_the_models_own_cache(model: LanguageModel) -> None:
    before = model.generate(PROMPT, 8, seed=1)
    changed = model.generate(PROMPT, 8, seed=1, tap=no_attention)
    after = model.generate(PROMPT, 8, seed=1)
    assert after.text == before.text
    np.testing.assert_array_equal(after.logprobs, before.logprobs)
    assert not np.allclose(changed.logprobs, before.logprobs, rtol=0, atol=1e-5)
    assert changed.usage.cached_tokens == 0


def test_samples_under_a_tap_are_what_each_would_be_alone(model: LanguageModel) -> None:
    three = model.samples(PROMPT, 3, 6, seed=2, tap=no_attention)
    alone = model.generate(PROMPT, 6, seed=2, tap=no_attention)
    assert three[0].token_ids == alone.token_ids
    assert len({result.token_ids for result in three}) > 1


def test_a_text_may_outgrow_the_context_under_a_tap(model: LanguageModel) -> None:
    result = model.generate(PROMPT, 140, seed=1, ignore_eos=True, slide=True, tap=no_attention)
    assert len(result.token_ids) == 140


def test_requests_are_checked_as_without_a_tap(model: LanguageModel) -> None:
    options: dict[str, Any] = {"tap": no_attention}
    with pytest.raises(InputError, match="ask for at most"):
        model.generate(PROMPT, 10**6, **options)
