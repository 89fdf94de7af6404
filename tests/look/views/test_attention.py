"""Where heads look, against transformers; kinds of heads, against their definitions in words."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_model
from hypothesis import given
from hypothesis import strategies as st

from laplm.errors import InputError
from laplm.look import passes
from laplm.look.view import Grid, Maps, Table
from laplm.look.views.attention import KINDS, attention, head_kinds, places, repeated_tokens, score
from laplm.look.views.logit_attribution import logit_attribution
from laplm.run.language_model import LanguageModel

TEXT = "Once upon a time, there was a little dog. The little dog"


def hf_patterns(model: Any, ids: list[int]) -> np.ndarray:
    """(layers, heads, T, T)"""
    with torch.no_grad():
        attentions = model(torch.tensor([ids]), output_attentions=True).attentions
    return torch.cat(attentions).numpy()


def test_patterns_are_those_of_transformers(pocket: LanguageModel, hf_pocket: Any) -> None:
    look = attention(pocket, TEXT)
    want = hf_patterns(hf_pocket, passes.encode(pocket, TEXT))
    np.testing.assert_allclose(look.pattern, want, rtol=0, atol=1e-4)
    assert look.layers == list(range(pocket.config.n_layer))
    assert look.heads == list(range(pocket.config.n_head))


def test_one_head_a_layer_or_a_head_through_the_layers(pocket: LanguageModel) -> None:
    whole = attention(pocket, TEXT)
    one = attention(pocket, TEXT, layer=1, head=2)
    np.testing.assert_array_equal(one.pattern, whole.pattern[1:2, 2:3])
    np.testing.assert_array_equal(attention(pocket, TEXT, layer=1).pattern, whole.pattern[1:2])
    np.testing.assert_array_equal(attention(pocket, TEXT, head=2).pattern, whole.pattern[:, 2:3])


def test_the_map_of_one_head_shows_the_causal_mask(pocket: LanguageModel) -> None:
    look = attention(pocket, TEXT, layer=0, head=0)
    (grid,) = [part for part in look.parts() if isinstance(part, Grid)]
    n = len(look.tokens)
    assert np.isnan(grid.values[np.triu_indices(n, 1)]).all()
    np.testing.assert_allclose(np.nansum(grid.values, axis=1), 1, rtol=0, atol=1e-5)
    rows = list(csv.DictReader(look.to_csv().splitlines()))
    strongest = look.pattern[0, 0].argmax(axis=1)
    assert [int(row["looks at"].split()[0]) for row in rows] == strongest.tolist()


def test_every_head_has_a_row_with_its_kinds(pocket: LanguageModel) -> None:
    look = attention(pocket, TEXT)
    rows = list(csv.DictReader(look.to_csv().splitlines()))
    assert len(rows) == pocket.config.n_layer * pocket.config.n_head
    for row in rows:
        at = int(row["layer"]), int(row["head"])
        for kind, scores in look.kinds.scores.items():
            assert float(row[kind]) == pytest.approx(float(scores[at]))


@given(ids=st.lists(st.integers(0, 4), min_size=2, max_size=12))
def test_kinds_look_where_their_definitions_say(ids: list[int]) -> None:
    found = places(ids)
    n = len(ids)
    for t in range(n):
        for s in range(n):
            want = {
                "previous token": s == t - 1,
                "first token": s == 0 and t > 0,
                "duplicate token": s < t and ids[s] == ids[t],
                "induction": 0 < s <= t and ids[s - 1] == ids[t],
            }
            assert {kind: bool(found[kind][t, s]) for kind in KINDS} == want


def test_a_head_that_only_looks_where_its_kind_does_scores_one() -> None:
    ids = [9, 3, 4, 5, 3, 4, 5]
    for where in places(ids).values():
        pattern = where / np.maximum(where.sum(axis=1, keepdims=True), 1)
        assert score(pattern, where) == pytest.approx(1)
        elsewhere = np.eye(len(ids))
        assert score(elsewhere, where & ~np.eye(len(ids), dtype=bool)) == 0
    assert math.isnan(score(np.eye(3), places([1, 2, 3])["induction"]))


def test_scores_are_those_of_the_patterns_of_transformers(
    pocket: LanguageModel, hf_pocket: Any
) -> None:
    ids = repeated_tokens(pocket, length=20, repeats=3, seed=4)
    assert len(ids) == 61
    assert ids[1:21] == ids[21:41] == ids[41:]
    assert len(set(ids[1:21])) == 20
    found = head_kinds(pocket, length=20, repeats=3, seed=4)
    assert found.repeats == 3
    patterns = hf_patterns(hf_pocket, ids)
    induction = [
        patterns[:, :, t, [s + 1 for s in range(t) if ids[s] == ids[t]]].sum(axis=-1)
        for t in range(21, 61)
    ]
    np.testing.assert_allclose(found.induction, np.mean(induction, axis=0), rtol=0, atol=1e-4)
    previous = [patterns[:, :, t, t - 1] for t in range(1, 61)]
    np.testing.assert_allclose(found.previous, np.mean(previous, axis=0), rtol=0, atol=1e-4)
    first = patterns[:, :, 1:, 0].mean(axis=-1)
    np.testing.assert_allclose(found.first, first, rtol=0, atol=1e-4)
    duplicate = [
        patterns[:, :, t, [s for s in range(t) if ids[s] == ids[t]]].sum(axis=-1)
        for t in range(21, 61)
    ]
    np.testing.assert_allclose(found.duplicate, np.mean(duplicate, axis=0), rtol=0, atol=1e-4)


def test_an_induction_head_that_was_built_is_found(tmp_path: Path) -> None:
    """Layer 0 copies the token before; a head of layer 1 looks for itself among the copies."""
    from transformers import GPT2LMHeadModel

    directory = make_model(
        tmp_path / "model", n_embd=256, n_head=2, n_layer=2, n_positions=128, n_inner=8
    )
    model = GPT2LMHeadModel.from_pretrained(directory)
    half = 64  # 0…63 what a token is, 64…127 the token before, 128…255 where it stands
    with torch.no_grad():
        for name, tensor in model.transformer.named_parameters():
            tensor.fill_(1.0 if name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight")) else 0)
        rng = torch.Generator().manual_seed(0)
        what = torch.nn.functional.normalize(
            torch.randn(model.config.vocab_size, half, generator=rng)
        )
        model.transformer.wte.weight[:, :half] = 8 * what
        model.transformer.wpe.weight[:, 2 * half :] = 8 * torch.eye(128)
        first, second = (block.attn for block in model.transformer.h)
        shift = torch.eye(128).roll(1, 0)  # position t asks for t - 1
        first.c_attn.weight[2 * half :, :128] = 30 * shift
        first.c_attn.weight[2 * half :, 256 : 256 + 128] = 30 * torch.eye(128)
        first.c_attn.weight[:half, 512 : 512 + half] = torch.eye(half)
        first.c_proj.weight[:half, half : 2 * half] = 8 * torch.eye(half)
        second.c_attn.weight[:half, :half] = 30 * torch.eye(half)
        second.c_attn.weight[half : 2 * half, 256 : 256 + half] = 30 * torch.eye(half)
    model.save_pretrained(directory)
    found = head_kinds(LanguageModel(directory, "fp32"))
    assert found.previous[0, 0] > 0.9
    assert found.induction[1, 0] > 0.9
    others = np.stack(list(found.scores.values()))
    others[0, 0, 0] = others[3, 1, 0] = 0
    assert others.max() < 0.5
    assert found.parts()[0].rows[0][:2] in ([0, 0], [1, 0])


def test_a_short_context_is_filled_with_fewer_repeats(tmp_path: Path) -> None:
    model = LanguageModel(make_model(tmp_path / "model", n_positions=60), "fp32")
    assert head_kinds(model).repeats == 2
    with pytest.raises(InputError, match="length 30 is too long for the model: choose at most 29"):
        head_kinds(model, length=30)
    with pytest.raises(InputError, match="must both be 2 or more"):
        head_kinds(model, repeats=1)


def test_layers_and_heads_that_are_not_there_are_named_with_their_range(
    pocket: LanguageModel,
) -> None:
    config = pocket.config
    with pytest.raises(InputError, match=f"has layers 0 to {config.n_layer - 1}"):
        attention(pocket, TEXT, layer=config.n_layer)
    with pytest.raises(InputError, match=f"has heads 0 to {config.n_head - 1}"):
        attention(pocket, TEXT, head=-1)
    with pytest.raises(InputError, match="empty"):
        attention(pocket, "")


@pytest.mark.parametrize("options", [{}, {"layer": 0}, {"layer": 0, "head": 1}])
def test_pictures_and_pages_are_written(
    pocket: LanguageModel, tmp_path: Path, options: dict[str, int]
) -> None:
    look = attention(pocket, "One day, a dog", **options)
    assert look.save(tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "induction" in look.save(tmp_path / "a.html").read_text()
    assert look.kinds.save(tmp_path / "kinds.svg").read_text().startswith("<svg")


def test_the_most_telling_heads_are_those_that_add_most_to_the_next_token(
    pocket: LanguageModel,
) -> None:
    text = "The capital of Spain is"
    found, adds = attention(pocket, text), logit_attribution(pocket, text).heads
    assert found.adds is not None and found.telling is not None
    np.testing.assert_allclose(found.adds, adds, atol=1e-5)
    best = np.argsort(-adds, axis=None)[:3]
    assert found.telling == [divmod(int(i), adds.shape[1]) for i in best]
    assert found.telling[0] == (4, 6)
    maps, every, *_ = found.parts()
    assert isinstance(maps, Maps) and isinstance(every, Table)
    assert list(maps.tokens) == found.tokens and maps.column_labels[0] == "4.6"
    np.testing.assert_allclose(np.nan_to_num(maps.values[0, 0]), found.pattern[4, 6])
    assert [row[1] for row in every.rows] == sorted(adds.ravel().tolist(), reverse=True)
    share = 100 * found.pattern[4, 6, -1].max()
    assert found.sentence().startswith(
        f"From “·is” head 4.6 looks at “·Spain” with {share:.0f}% and adds most of the heads to "
        f"the logit of “·Madrid”, {adds[4, 6]:+.1f}, then "
    )
    assert attention(pocket, text, layer=4).telling is None


def test_of_very_many_heads_the_picture_shows_the_telling_ones(
    pocket: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = attention(pocket, "The capital of Spain is")
    monkeypatch.setattr("laplm.look.views.attention._SQUARES", 40)
    drawn = [axes for axes in found.plot().axes if axes.get_title(loc="left") or axes.get_title()]
    images = [axes.images[0].get_array() for axes in drawn]
    assert len(images) == 4 and found.telling is not None and found.adds is not None
    np.testing.assert_allclose(images[3], found.adds)
    for image, place in zip(images, found.telling, strict=False):
        np.testing.assert_allclose(image[-1], found.pattern[place][-1], atol=1e-6)
