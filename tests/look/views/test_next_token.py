"""The next token against transformers: its logits, its samplers' distributions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from transformers.generation.logits_process import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from laplm.errors import ContextLengthError, InputError
from laplm.look.views.next_token import EXAMPLES, OFF, entropy, next_token
from laplm.run.language_model import LanguageModel
from laplm.run.sampler import SamplingParams

TEXT = "Once upon a time, there was a little dog. The little dog"
WARPERS: dict[str, Any] = {
    "repetition_penalty": RepetitionPenaltyLogitsProcessor,
    "temperature": TemperatureLogitsWarper,
    "top_k": TopKLogitsWarper,
    "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper,
}


@pytest.fixture(scope="module")
def theirs(pocket: LanguageModel, hf_pocket: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (1, T) and transformers' logits (1, V) after them."""
    ids = torch.tensor([pocket.tokenizer.encode(TEXT)])
    with torch.no_grad():
        return ids, hf_pocket(ids).logits[:, -1]


def warped(theirs: tuple[torch.Tensor, torch.Tensor], **values: float) -> torch.Tensor:
    ids, logits = theirs
    chain: list[LogitsProcessor] = [
        make(values[name]) for name, make in WARPERS.items() if name in values
    ]
    return LogitsProcessorList(chain)(ids, logits.clone())[0].softmax(dim=0)


def test_the_table_is_transformers_own(pocket: LanguageModel, theirs: Any) -> None:
    view = next_token(pocket, TEXT, k=12)
    logits = theirs[1][0]
    values, ids = logits.topk(12)
    assert view.ids.tolist() == ids.tolist()
    np.testing.assert_allclose(view.logits, values, atol=1e-4)
    p = logits.softmax(dim=0)
    np.testing.assert_allclose(view.before.probabilities, p[ids], atol=1e-5)
    assert view.labels == tuple(
        pocket.tokenizer.token_text(i).replace(" ", "·") for i in ids.tolist()
    )
    bits = torch.distributions.Categorical(probs=p).entropy().item() / math.log(2)
    assert view.before.entropy == pytest.approx(bits, abs=1e-3)
    assert view.before.perplexity == pytest.approx(2**bits, rel=1e-3)
    assert view.before.kept == pocket.config.vocab_size
    assert view.parts()[0].rows[0][:2] == [1, ids[0].item()]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_setting_does_what_transformers_does(
    pocket: LanguageModel, theirs: Any, name: str
) -> None:
    effects = {
        next(n for n, v in OFF.items() if getattr(e.params, n) != v): e
        for e in next_token(pocket, TEXT).effects
    }
    assert effects.keys() == EXAMPLES.keys()
    want = warped(theirs, **{name: EXAMPLES[name]})
    effect = effects[name]
    best = next_token(pocket, TEXT).ids
    np.testing.assert_allclose(effect.probabilities, want[torch.tensor(best)], atol=1e-5)
    assert effect.kept == torch.count_nonzero(want)
    assert effect.likeliest == pocket.tokenizer.token_text(int(want.argmax())).replace(" ", "·")


def test_settings_that_are_given_are_shown_alone_and_together(
    pocket: LanguageModel, theirs: Any
) -> None:
    given_ = {"temperature": 1.3, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.2}
    view = next_token(pocket, TEXT, **given_)  # type: ignore[arg-type]
    assert [e.name for e in view.effects] == [
        "temperature 1.3", "top-k 40", "top-p 0.9", "repetition penalty 1.2", "all together",
    ]  # fmt: skip
    last = view.effects[-1]
    assert last.params == SamplingParams(**given_)  # type: ignore[arg-type]
    want = warped(theirs, **given_)
    np.testing.assert_allclose(last.probabilities, want[torch.tensor(view.ids)], atol=1e-5)
    assert "then all together" in view.parts()[1].note
    (one,) = next_token(pocket, TEXT, min_p=0.2).effects
    assert one.name == "min-p 0.2"
    assert "all together" not in next_token(pocket, TEXT).parts()[1].note


def test_tokens_that_a_filter_removed_are_left_empty(pocket: LanguageModel) -> None:
    view = next_token(pocket, TEXT, k=6, top_k=2)
    table = view.parts()[1]
    column = [row[-1] for row in table.rows]  # type: ignore[union-attr]
    assert column[2:] == [None] * 4 and None not in column[:2]
    assert view.effects[0].kept == 2
    assert sum(column[:2]) == pytest.approx(1)


def test_greedy_leaves_one_token(pocket: LanguageModel) -> None:
    (effect,) = next_token(pocket, TEXT, temperature=0).effects
    assert (effect.kept, effect.entropy, effect.perplexity) == (1, 0, 1)


weights = hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1)).filter(
    lambda w: w.sum() > 1e-3
)


@settings(deadline=None)
@given(weights)
def test_entropy_is_torchs_in_bits_and_within_its_bounds(w: np.ndarray) -> None:
    p = w / w.sum()
    want = torch.special.entr(torch.tensor(p)).sum().item() / math.log(2)
    assert entropy(p) == pytest.approx(want, abs=1e-9)
    assert 0 <= entropy(p) <= math.log2(len(p)) + 1e-9


def test_entropy_of_known_distributions() -> None:
    assert entropy(np.full(8, 1 / 8)) == pytest.approx(3)
    assert entropy(np.array([1.0, 0.0])) == 0


def test_the_picture_has_a_panel_for_each_setting(pocket: LanguageModel) -> None:
    from matplotlib.text import Text

    view = next_token(pocket, TEXT)
    figure = view.plot()
    figure.draw_without_rendering()
    written = {text.get_text() for text in figure.findobj(Text)}
    assert set(view.labels) <= written
    titles = {text.split("\n")[0] for text in written}
    assert {"as it is", "temperature 0.5", "top-k 5", "repetition penalty 1.5"} <= titles


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k is 0, but it must be a whole number from 1 to"),
        ({"k": 2.5}, "k is 2.5"),
        ({"temperature": -1}, "temperature is -1"),
        ({"top_p": 2}, "top_p is 2"),
        ({"top_k": True}, "top_k is True"),
    ],
)
def test_options_out_of_range_are_named(
    pocket: LanguageModel, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        next_token(pocket, TEXT, **options)


def test_texts_that_cannot_be_looked_at_are_refused(pocket: LanguageModel) -> None:
    with pytest.raises(InputError, match="the text is empty"):
        next_token(pocket, "")
    with pytest.raises(ContextLengthError, match="the model holds"):
        next_token(pocket, "dog " * pocket.config.n_ctx)


def test_int8_shows_the_engines_own_logits(pocket: LanguageModel) -> None:
    small = LanguageModel("pocket", "int8")
    view = next_token(small, TEXT)
    want = small.gpt.forward(small.tokenizer.encode(TEXT), last_only=True)[-1]
    np.testing.assert_array_equal(view.logits, want[view.ids])


def test_the_sentence_says_the_likeliest_and_what_a_setting_makes_of_it(
    pocket: LanguageModel,
) -> None:
    seen = next_token(pocket, TEXT, temperature=2.0)
    first, second = (100 * float(p) for p in seen.before.probabilities[:2])
    after = seen.effects[0]
    assert seen.sentence() == (
        f"“{seen.labels[0]}” comes next with {first:.1f}%, before “{seen.labels[1]}” with "
        f"{second:.1f}%; as uncertain as a choice among {seen.before.perplexity:,.1f} tokens; with "
        f"temperature 2 “{seen.labels[0]}” has {100 * float(after.probabilities[0]):.1f}%, as "
        f"among {after.perplexity:,.1f}."
    )
    assert "temperature" not in next_token(pocket, TEXT).sentence(), "examples nobody asked for"
