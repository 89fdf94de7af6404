"""One head in numbers: what the formula says, and what the model did."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from laplm.errors import InputError
from laplm.look import one_head
from laplm.model.families.ops import softmax
from laplm.run.language_model import LanguageModel, load

TEXT = "The capital of Spain is"


def test_the_formula_gives_what_the_model_did(pocket: LanguageModel, tiny_llama_dir: Any) -> None:
    for model, head in ((pocket, 6), (load(str(tiny_llama_dir), "fp32"), 3)):
        one = one_head(model, TEXT, layer=1, head=head)
        assert one.q.shape == one.k.shape == one.v.shape == one.z.shape
        assert one.q.shape == (len(one.tokens), model.config.head_dim)
        shares = softmax(np.where(one.visible, one.q @ one.k.T * one.scale, -np.inf))
        np.testing.assert_allclose(shares, one.pattern, atol=1e-5)
        np.testing.assert_allclose(shares @ one.v, one.z, atol=1e-4)
        np.testing.assert_allclose(one.scores, one.q @ one.k.T * one.scale, atol=1e-4)
        assert one.key_head == head * model.config.n_kv_head // model.config.n_head
        assert np.isnan(one.masked(one.scores)[0, 1:]).all()
        assert one.tokens[int(one.pattern[-1].argmax())] in one.sentence()


def test_the_pattern_is_that_of_transformers(pocket: LanguageModel, hf_pocket: Any) -> None:
    one = one_head(pocket, TEXT, layer=4, head=6)
    with torch.no_grad():
        found = hf_pocket(torch.tensor([pocket.tokenizer.encode(TEXT)]), output_attentions=True)
    np.testing.assert_allclose(one.pattern, found.attentions[4][0, 6].numpy(), atol=1e-5)


def test_the_pictures_have_its_numbers(pocket: LanguageModel) -> None:
    one = one_head(pocket, TEXT, layer=4, head=6)
    left, middle, right = one.plot().axes
    assert [len(axes.texts) for axes in (left, middle, right)] == [25, 16, 16]  # signs, numbers
    assert f"{100 * one.pattern[-1].max():.0f}%" in {
        t.get_text() for t in one.plot_arcs().axes[0].texts
    }
    table, scores, shares = one.parts()
    assert ["Q", "5 × 32"] in table.rows  # type: ignore[union-attr]
    assert np.isfinite(scores.values).all() and np.isnan(shares.values).sum() == 10  # type: ignore[union-attr]


@pytest.mark.parametrize("place", [{"layer": 9, "head": 0}, {"layer": 0, "head": 99}])
def test_a_head_that_is_not_there_is_refused(pocket: LanguageModel, place: dict[str, int]) -> None:
    with pytest.raises(InputError, match="is not there"):
        one_head(pocket, TEXT, **place)
