"""The token embedding against torch, by brute force."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity

from laplm.errors import InputError
from laplm.look.views.embeddings import WORD_SETS, embeddings, matrix_stats, nearest_tokens
from laplm.run.language_model import LanguageModel


@pytest.fixture(scope="module")
def wte(hf_pocket: Any) -> torch.Tensor:
    return hf_pocket.transformer.wte.weight.detach().double()


def test_the_matrix_statistics_are_those_of_all_its_rows(wte: torch.Tensor) -> None:
    some = wte[:300]
    found = matrix_stats(some.float().numpy())
    norms = some.norm(dim=1)
    cosines = cosine_similarity(some[:, None], some[None], dim=2)
    between = cosines[~torch.eye(300, dtype=torch.bool)]
    assert found.shape == tuple(some.shape)
    assert found.norm_mean == pytest.approx(norms.mean().item(), rel=1e-5)
    assert found.norm_std == pytest.approx(norms.std(correction=0).item(), rel=1e-4)
    assert (found.norm_min, found.norm_max) == pytest.approx(
        (norms.min().item(), norms.max().item()), rel=1e-5
    )
    assert found.cosine_mean == pytest.approx(between.mean().item(), abs=1e-5)


def test_words_are_looked_up_with_a_space_before_them(
    pocket: LanguageModel, wte: torch.Tensor
) -> None:
    view = embeddings(pocket, ["dog", " cat", "bird"])
    assert view.words == ("dog", "cat", "bird")
    for word, tokens, vector in zip(view.words, view.tokens, view.vectors, strict=True):
        ids = pocket.tokenizer.encode(f" {word}")
        assert tokens == (f"·{word}",)
        np.testing.assert_allclose(vector, wte[ids[0]], atol=1e-6)


def test_a_word_of_several_tokens_is_their_mean_and_said_to_be(
    pocket: LanguageModel, wte: torch.Tensor
) -> None:
    view = embeddings(pocket, ["dog", "zyzzyvas", "New dog", "bird"])
    ids = pocket.tokenizer.encode(" zyzzyvas")
    assert len(ids) > 1
    assert view.tokens[1] == tuple(pocket.tokenizer.token_text(i).replace(" ", "·") for i in ids)
    np.testing.assert_allclose(view.vectors[1], wte[ids].mean(dim=0), atol=1e-6)
    note = view.parts()[0].note
    assert "Of several tokens, and so the mean of their vectors: zyzzyvas, New dog." in note
    assert "Each word is one token" in embeddings(pocket, ["dog", "cat", "bird"]).parts()[0].note
    assert "zyzzyvas*" in texts(view.plot())


def test_the_projection_is_that_of_the_words_and_its_variance_is_named(
    pocket: LanguageModel, wte: torch.Tensor
) -> None:
    view = embeddings(pocket, word_sets=("animals", "family"))
    points = torch.tensor(view.vectors).double()
    values = torch.linalg.eigvalsh(torch.cov(points.T)).flip(0)
    want = values[:2] / values.sum()
    np.testing.assert_allclose(view.projection.explained, want, rtol=1e-4)
    assert {f"component {k + 1} ({want[k]:.1%} of the variance)" for k in (0, 1)} <= texts(
        view.plot()
    )
    assert f"{float(want.sum()):.1%} of the variance" in view.parts()[0].note


def test_nearest_tokens_are_those_that_torch_finds(
    pocket: LanguageModel, wte: torch.Tensor
) -> None:
    view = nearest_tokens(pocket, "dog", k=12)
    (dog,) = pocket.tokenizer.encode(" dog")
    cosines = cosine_similarity(wte, wte[dog][None])
    order = [
        i
        for i in cosines.argsort(descending=True).tolist()
        if pocket.tokenizer.token_text(i).strip().lower() != "dog"
    ]
    assert view.ids.tolist() == order[:12]
    np.testing.assert_allclose(view.cosines, cosines[order[:12]], atol=1e-5)
    shown = embeddings(pocket, ["dog", "cat", "bird"])
    near = [i for i in cosines.argsort(descending=True).tolist() if i != dog][:3]
    assert [c for _, c in shown.nearest[0]] == pytest.approx(cosines[near].tolist(), abs=1e-5)


def test_an_analogy_adds_unit_vectors_and_leaves_its_words_out(
    pocket: LanguageModel, wte: torch.Tensor
) -> None:
    view = nearest_tokens(pocket, "king - man  + woman", k=5)
    assert [(sign, word) for sign, word, _ in view.terms] == [
        (1, "king"), (-1, "man"), (1, "woman"),
    ]  # fmt: skip
    king, man, woman = (wte[pocket.tokenizer.encode(f" {w}")[0]] for w in ("king", "man", "woman"))
    total = king / king.norm() - man / man.norm() + woman / woman.norm()
    cosines = cosine_similarity(wte, total[None])
    order = [
        i
        for i in cosines.argsort(descending=True).tolist()
        if pocket.tokenizer.token_text(i).strip().lower() not in ("king", "man", "woman")
    ]
    assert view.ids.tolist() == order[:5]
    np.testing.assert_allclose(view.cosines, cosines[order[:5]], atol=1e-5)
    assert view.expression == "king - man + woman"
    assert view.parts()[0].title.startswith("nearest to king - man + woman")


def test_a_leading_sign_and_a_hyphen_are_told_apart(pocket: LanguageModel) -> None:
    view = nearest_tokens(pocket, "- man + well-known", k=1)
    assert [(sign, word) for sign, word, _ in view.terms] == [(-1, "man"), (1, "well-known")]


@given(st.text(alphabet="ab +-\n", max_size=12))
@settings(deadline=None)
def test_any_expression_is_read_or_refused_plainly(pocket: LanguageModel, text: str) -> None:
    try:
        view = nearest_tokens(pocket, text, k=1)
    except InputError as error:
        assert 'write it like "king - man + woman"' in str(error)
        return
    assert len(view.ids) == 1
    assert all(word for _, word, _ in view.terms)


@pytest.mark.parametrize("name", WORD_SETS)
def test_every_word_set_is_drawn_and_its_pairs_are_joined(pocket: LanguageModel, name: str) -> None:
    view = embeddings(pocket, word_sets=name)  # type: ignore[arg-type]
    assert list(view.words) == [word for together in WORD_SETS[name] for word in together]
    assert len(set(view.words)) == len(view.words)
    joined = [(view.words[a], view.words[b]) for a, b in view.pairs]
    assert joined == [together for together in WORD_SETS[name] if len(together) == 2]
    shown = {text.rstrip("*") for text in texts(view.plot())}
    assert set(view.words) <= shown


def test_default_words_and_cities_are_those_of_the_talk(pocket: LanguageModel) -> None:
    assert set(embeddings(pocket).groups) == {"family", "gender", "animals"}
    cities = embeddings(pocket, word_sets=["cities"])
    assert set(cities.groups) == {"country", "capital"}
    assert cities.groups[cities.words.index("Madrid")] == "capital"


def test_one_word_is_shown_among_its_neighbours(pocket: LanguageModel) -> None:
    view = embeddings(pocket, ["king"])
    assert len(view.words) == 9
    assert view.groups == ("your words", *["near king"] * 8)


def test_words_and_counts_that_cannot_be_are_refused(pocket: LanguageModel) -> None:
    with pytest.raises(InputError, match="a word is empty"):
        embeddings(pocket, ["dog", " "])
    with pytest.raises(InputError, match="'colours' is not one of family, gender, animals, cities"):
        embeddings(pocket, word_sets=["colours"])
    with pytest.raises(InputError, match="no words to look at"):
        embeddings(pocket, word_sets=[])
    with pytest.raises(InputError, match="k is 0, but it must be a whole number from 1 to"):
        nearest_tokens(pocket, "dog", k=0)


def test_rows_beyond_the_tokenizers_vocabulary_are_no_neighbours(pocket: LanguageModel) -> None:
    class Padded:
        name, tokenizer = "padded", pocket.tokenizer
        config = dataclasses.replace(pocket.config, vocab_size=pocket.config.vocab_size + 8)

        class checkpoint:  # noqa: N801
            @staticmethod
            def tensor(name: str) -> np.ndarray:
                rows = pocket.checkpoint.tensor(name)
                (dog,) = pocket.tokenizer.encode(" dog")
                return np.concatenate([rows, np.repeat(rows[[dog]], 8, axis=0)])

    view = nearest_tokens(Padded, "dog", k=5)  # type: ignore[arg-type]
    assert view.ids.tolist() == nearest_tokens(pocket, "dog", k=5).ids.tolist()


def texts(figure: Any) -> set[str]:
    from matplotlib.text import Text

    figure.draw_without_rendering()
    return {text.get_text() for text in figure.findobj(Text)}
