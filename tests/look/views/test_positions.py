"""The position embedding and word order, against torch and transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity

from laplm.errors import ContextLengthError, InputError
from laplm.look.view import Grid
from laplm.look.views.positions import positions, swapped, word_order
from laplm.run.language_model import LanguageModel

FIRST, SECOND = "the cat chased the mouse", "the mouse chased the cat"


def test_similarities_are_the_cosines_of_the_rows(pocket: LanguageModel, hf_pocket: Any) -> None:
    wpe = hf_pocket.transformer.wpe.weight.detach().double()
    view = positions(pocket, samples=40)
    assert view.shape == tuple(wpe.shape)
    assert 20 < len(view.sampled) <= 40
    assert len(set(np.diff(view.sampled).tolist())) == 1
    some = wpe[torch.tensor(view.sampled)]
    want = cosine_similarity(some[:, None], some[None], dim=2)
    np.testing.assert_allclose(view.similarity, want, atol=1e-5)
    np.testing.assert_allclose(view.norms, wpe.norm(dim=1), rtol=1e-5)
    for distance in (0, 1, 7):
        apart = cosine_similarity(wpe[distance:], wpe[: len(wpe) - distance], dim=1).mean()
        assert view.by_distance[distance] == pytest.approx(apart.item(), abs=1e-5)


def test_components_explain_what_the_covariance_says(pocket: LanguageModel, hf_pocket: Any) -> None:
    wpe = hf_pocket.transformer.wpe.weight.detach().double()
    values = torch.linalg.eigvalsh(torch.cov(wpe.T)).flip(0)
    view = positions(pocket)
    np.testing.assert_allclose(
        view.projection.explained, values[:6] / values.sum(), rtol=1e-3, atol=1e-6
    )
    assert view.projection.scores.shape == (len(wpe), 6)
    assert f"component 1 {values[0] / values.sum():.1%}" in view.parts()[0].note
    assert f"component 1: {values[0] / values.sum():.1%}" in texts(view.plot())


def test_what_is_shown_is_a_part_of_what_there_is(pocket: LanguageModel) -> None:
    view = positions(pocket)
    grid = view.parts()[1]
    assert isinstance(grid, Grid)
    at = [int(label) for label in grid.row_labels]
    assert at == [int(label) for label in grid.column_labels] and len(at) <= 16
    where = [view.sampled.tolist().index(p) for p in at]
    np.testing.assert_array_equal(grid.values, view.similarity[np.ix_(where, where)])


def test_word_order_changes_what_comes_next(pocket: LanguageModel, hf_pocket: Any) -> None:
    view = word_order(pocket, FIRST, SECOND, ending=". The", k=7)
    found = []
    with torch.no_grad():
        for text in (f"{FIRST}. The", f"{SECOND}. The"):
            ids = torch.tensor([pocket.tokenizer.encode(text)])
            out = hf_pocket(ids, output_hidden_states=True)
            found.append((out.logits[0, -1].softmax(dim=0), out.hidden_states[-1][0, -1]))
    (p, end), (q, other_end) = found
    best = torch.maximum(p, q).argsort(descending=True)[:7]
    assert view.ids.tolist() == best.tolist()
    np.testing.assert_allclose(view.probabilities, torch.stack([p[best], q[best]]), atol=1e-5)
    assert view.distance == pytest.approx(((p - q).abs().sum() / 2).item(), abs=1e-5)
    assert view.distance > 0.01
    # transformers' last hidden state has the last norm's gain and shift in it, as ours has.
    cosine = cosine_similarity(end, other_end, dim=0).item()
    assert view.final_cosine == pytest.approx(cosine, abs=1e-4)


def test_without_positions_the_first_attention_does_not_know_the_order(
    pocket: LanguageModel, hf_pocket: Any
) -> None:
    view = word_order(pocket, FIRST, SECOND)
    assert view.same_tokens
    assert view.sum_cosine == pytest.approx(1, abs=1e-6)
    as_it_is, without = view.attention_cosine
    assert without == pytest.approx(1, abs=1e-6)
    assert as_it_is < 1 - 1e-5
    kept: list[torch.Tensor] = []
    hook = hf_pocket.transformer.h[0].attn.register_forward_hook(
        lambda module, args, out: kept.append(out[0][0, -1])
    )
    with torch.no_grad():
        for text in view.texts:
            hf_pocket(torch.tensor([pocket.tokenizer.encode(text)]))
    hook.remove()
    assert as_it_is == pytest.approx(cosine_similarity(*kept, dim=0).item(), abs=1e-5)


def test_other_words_are_said_not_to_be_the_same(pocket: LanguageModel) -> None:
    view = word_order(pocket, "the dog ran", "the cat ran")
    assert not view.same_tokens
    assert ["tokens", "NOT the same tokens"] in view.parts()[1].rows  # type: ignore[union-attr]


def test_the_talks_sentence_is_the_default_and_its_nouns_change_places(
    pocket: LanguageModel,
) -> None:
    view = word_order(pocket)
    assert view.texts == (f"{FIRST}. The", f"{SECOND}. The")
    assert {f"after “{FIRST}. The”", *view.labels} <= texts(view.plot())


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c", "d", "the"]), max_size=7).map(" ".join))
def test_swapping_keeps_the_words_and_changes_the_text(text: str) -> None:
    words = text.split()
    once = [word for word in words if words.count(word) == 1]
    if len(once) < 2:
        with pytest.raises(InputError, match="no two words to swap"):
            swapped(text)
        return
    after = swapped(text).split()
    assert sorted(after) == sorted(words) and after != words
    assert sum(a != b for a, b in zip(words, after, strict=True)) == 2


def test_what_cannot_be_compared_is_refused(pocket: LanguageModel) -> None:
    with pytest.raises(InputError, match="both texts are the same"):
        word_order(pocket, "a dog", "a dog")
    with pytest.raises(InputError, match="the text is empty"):
        word_order(pocket, "a dog", "", ending="")
    with pytest.raises(InputError, match="k is 0"):
        word_order(pocket, k=0)
    with pytest.raises(ContextLengthError, match="the model holds"):
        word_order(pocket, "dog " * pocket.config.n_ctx, "cat")
    with pytest.raises(InputError, match="samples is 0"):
        positions(pocket, samples=0)


def texts(figure: Any) -> set[str]:
    from matplotlib.text import Text

    figure.draw_without_rendering()
    return {text.get_text() for text in figure.findobj(Text)}
