"""A generation, token by token, against transformers and against ``generate`` itself."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TEXT, make_model
from hypothesis import given, settings
from hypothesis import strategies as st

from laplm.errors import ContextLengthError, InputError, MissingExtraError
from laplm.look.view import Passage
from laplm.look.views.generation import generation
from laplm.run.language_model import LanguageModel
from laplm.run.sampler import SamplingParams

PROMPT = "Once upon a time, there was a"


def test_probabilities_entropies_and_alternatives_are_transformers_own(
    pocket: LanguageModel, hf_pocket: Any
) -> None:
    view = generation(pocket, PROMPT, max_new_tokens=70, seed=3, alternatives=4, ignore_eos=True)
    before = pocket.tokenizer.encode(PROMPT)
    with torch.no_grad():
        logits = hf_pocket(torch.tensor([[*before, *view.ids]])).logits[0, len(before) - 1 : -1]
    p = logits.double().softmax(dim=1)
    ids = torch.tensor(view.ids)
    own = p[torch.arange(70), ids]
    np.testing.assert_allclose(view.probabilities, own, atol=1e-4)
    np.testing.assert_array_equal(view.ranks, 1 + (p > own[:, None]).sum(dim=1))
    bits = torch.special.entr(p).sum(dim=1) / math.log(2)
    np.testing.assert_allclose(view.entropies, bits, atol=1e-3)
    others = p.clone()
    others[torch.arange(70), ids] = 0
    values, best = others.topk(4)
    np.testing.assert_allclose(view.alternative_probabilities, values, atol=1e-4)
    assert (view.alternative_ids == best.numpy()).mean() > 0.98  # near ties may change places
    assert view.alternative_labels[0][0] == pocket.tokenizer.token_text(
        int(view.alternative_ids[0, 0])
    ).replace(" ", "·")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_text_is_the_one_that_generate_gives(precision: Any) -> None:
    model = LanguageModel("pocket", precision)
    options: dict[str, Any] = {"temperature": 1.1, "top_k": 30, "top_p": 0.95, "seed": 5}
    view = generation(model, PROMPT, max_new_tokens=40, **options)
    result = model.generate(PROMPT, 40, **options)
    assert (view.text, tuple(view.ids)) == (result.text, result.token_ids)
    np.testing.assert_allclose(np.log(view.probabilities), result.logprobs, atol=2e-5)
    assert "".join(view.pieces) == result.text
    assert view.params == SamplingParams(**options)


def test_what_was_drawn_from_is_after_the_settings(pocket: LanguageModel, hf_pocket: Any) -> None:
    view = generation(pocket, PROMPT, max_new_tokens=12, temperature=0.7, top_k=3, seed=2)
    before = pocket.tokenizer.encode(PROMPT)
    with torch.no_grad():
        logits = hf_pocket(torch.tensor([[*before, *view.ids]])).logits[0, len(before) - 1 : -1]
    values, best = (logits / 0.7).topk(3)
    chances = values.softmax(dim=1)
    want = chances[best == torch.tensor(view.ids)[:, None]]
    np.testing.assert_allclose(view.drawn_probabilities, want, atol=1e-4)
    assert (view.ranks <= 3).all()
    greedy = generation(pocket, PROMPT, max_new_tokens=5, temperature=0)
    assert (greedy.ranks == 1).all() and (greedy.drawn_probabilities == 1).all()


def test_without_a_seed_one_is_drawn_and_told(pocket: LanguageModel) -> None:
    view = generation(pocket, PROMPT, max_new_tokens=8)
    seed = view.params.seed
    assert seed is not None and f"seed {seed}." in view.parts()[0].note
    again = generation(pocket, PROMPT, max_new_tokens=8, seed=seed)
    assert tuple(again.ids) == tuple(view.ids)


def test_it_says_why_it_ended(pocket: LanguageModel) -> None:
    stopped = generation(pocket, PROMPT, max_new_tokens=60, seed=1, stop=["."])
    assert stopped.finish_reason == "stop" and "." not in stopped.text
    assert "a stop string came" in stopped.parts()[0].note
    full = generation(pocket, PROMPT, max_new_tokens=2, seed=1)
    assert full.finish_reason == "length" and len(full.ids) == 2


def test_the_text_is_coloured_by_probability(pocket: LanguageModel) -> None:
    view = generation(pocket, PROMPT, max_new_tokens=6, seed=1, alternatives=2)
    passage = view.parts()[0]
    assert isinstance(passage, Passage)
    assert passage.spans[0].text == PROMPT and passage.spans[0].strength is None
    assert [s.strength for s in passage.spans[1:]] == view.probabilities.tolist()
    assert "".join(s.text for s in passage.spans) == PROMPT + view.text
    assert all(
        all(label in span.tip for label in labels)
        for span, labels in zip(passage.spans[1:], view.alternative_labels, strict=True)
    )


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """Random weights and a byte alphabet: it writes bytes that are no characters."""
    return LanguageModel(make_model(tmp_path_factory.mktemp("generation") / "random", seed=4))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 30))
def test_any_tokens_make_a_text_even_parts_of_characters(
    random_model: LanguageModel, seed: int, n: int
) -> None:
    view = generation(
        random_model, TEXT[:20], max_new_tokens=n, seed=seed, temperature=2, top_k=0,
        ignore_eos=True,
    )  # fmt: skip
    assert "".join(view.pieces) == random_model.tokenizer.decode(view.ids.tolist())
    assert len(view.pieces) == len(view.ids) == n
    assert view.alternative_probabilities.shape == (n, 3)


def test_no_alternatives_can_be_asked_for(pocket: LanguageModel) -> None:
    view = generation(pocket, PROMPT, max_new_tokens=3, seed=1, alternatives=0)
    assert view.alternative_probabilities.shape == (3, 0)
    view.plot()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alternatives": -1}, "alternatives is -1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"stop": ""}, "a stop string is empty"),
    ],
)
def test_options_out_of_range_are_named(
    pocket: LanguageModel, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        generation(pocket, PROMPT, **options)


def test_prompts_that_cannot_be_continued_are_refused(pocket: LanguageModel) -> None:
    with pytest.raises(InputError, match="the text is empty"):
        generation(pocket, "")
    with pytest.raises(ContextLengthError):
        generation(pocket, PROMPT, max_new_tokens=pocket.config.n_ctx)


def test_the_page_to_keep_has_the_text_and_every_alternative(
    pocket: LanguageModel, tmp_path: Path
) -> None:
    view = generation(pocket, "a <b> & 'c'", max_new_tokens=4, seed=1)
    text = view.save(tmp_path / "g.html").read_text()
    assert "<svg" in text and "a &lt;b&gt; &amp; &#x27;c&#x27;" in text
    assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(["']?http""", text)
    saved = json.loads(view.save(tmp_path / "g.json").read_text())
    assert saved["ids"] == view.ids.tolist() and saved["params"]["seed"] == 1


def test_without_matplotlib_the_page_has_all_but_the_picture(
    pocket: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = generation(pocket, PROMPT, max_new_tokens=4, seed=1)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = view.save(tmp_path / "g.html").read_text()
    assert "<svg" not in text and "token by token" in text
    with pytest.raises(MissingExtraError, match=r'"look" extra: pip install "laplm\[look\]"'):
        view.save(tmp_path / "g.png")
    assert not (tmp_path / "g.png").exists()


def test_the_picture_names_every_token(pocket: LanguageModel) -> None:
    from matplotlib.text import Text

    view = generation(pocket, PROMPT, max_new_tokens=6, seed=1)
    figure = view.plot()
    figure.draw_without_rendering()
    written = {text.get_text() for text in figure.findobj(Text)}
    assert {*view.labels, "probability", "entropy, bits"} <= written
