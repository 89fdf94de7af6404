"""One pass at a glance, against the other looks (which are bound to transformers) and hooks."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hf_activations import hf_activations

from laplm.errors import ContextLengthError, InputError
from laplm.look import passes
from laplm.look.views.block import block
from laplm.look.views.inside import inside
from laplm.look.views.logit_lens import logit_lens
from laplm.look.views.next_token import next_token
from laplm.run.language_model import LanguageModel

TEXT = "Once upon a time, there was a little dog. The little dog"


@pytest.fixture(scope="module")
def hf(pocket: LanguageModel, hf_pocket: Any) -> dict[Any, np.ndarray]:
    return hf_activations(hf_pocket, passes.encode(pocket, TEXT))


def test_the_open_block_is_that_of_transformers(
    pocket: LanguageModel, hf: dict[Any, np.ndarray]
) -> None:
    found = inside(pocket, TEXT, layer=2, position=5).block
    assert found is not None and found.layer == 2
    np.testing.assert_allclose(found.patterns, hf["pattern", 2], atol=1e-4)
    np.testing.assert_array_equal(found.earlier, 0)
    names = [v.name for v in found.vectors]
    assert names == [
        "resid_pre", "ln1_normalized", "ln1", "attn_out", "resid_mid", "ln2_normalized", "ln2",
        "mlp_out", "resid_post",
    ]  # fmt: skip
    for vector in found.vectors:
        want = hf[vector.name, 2][5]
        np.testing.assert_allclose(vector.numbers, want[:64], rtol=1e-4, atol=1e-3)
        assert vector.norm == pytest.approx(float(np.linalg.norm(want)), rel=1e-3)
    whole = block(pocket, TEXT, layer=2, position=5, neurons=6, words=5)
    assert found.neurons == whole.neurons
    assert found.feed_forward_cosine == pytest.approx(whole.feed_forward_cosine[5], abs=1e-5)


def test_heads_add_up_to_what_attention_adds(pocket: LanguageModel, hf_pocket: Any) -> None:
    found = inside(pocket, TEXT, layer=1).block
    assert found is not None
    projection = hf_pocket.transformer.h[1].attn.c_proj
    kept: list[torch.Tensor] = []
    hook = projection.register_forward_pre_hook(lambda _, x: kept.append(x[0][0, -1].detach()))
    with torch.no_grad():
        hf_pocket(torch.tensor([passes.encode(pocket, TEXT)]))
    hook.remove()
    heads = kept[0].reshape(pocket.config.n_head, -1)
    rows = projection.weight.detach().reshape(pocket.config.n_head, heads.shape[1], -1)
    want = torch.einsum("hd,hdc->hc", heads, rows).norm(dim=-1)
    np.testing.assert_allclose(found.head_norms, want, rtol=1e-3)


def test_the_tower_and_the_lens_are_those_of_the_other_looks(
    pocket: LanguageModel, hf: dict[Any, np.ndarray]
) -> None:
    found = inside(pocket, TEXT)
    for layer in range(pocket.config.n_layer):
        for got, name in (
            (found.stream_norms, "resid_pre"), (found.attention_norms, "attn_out"),
            (found.feed_forward_norms, "mlp_out"),
        ):  # fmt: skip
            want = np.linalg.norm(hf[name, layer], axis=-1)
            np.testing.assert_allclose(got[layer], want, rtol=1e-3)
    assert [v.name for v in found.final] == ["resid_post", "ln_final_normalized", "ln_final"]
    np.testing.assert_allclose(found.final[2].numbers, hf["ln_final", None][-1, :64], atol=1e-3)
    other = logit_lens(pocket, TEXT)
    assert found.lens is not None
    assert found.lens.stages == other.stages
    assert found.lens.tokens == other.top_tokens
    np.testing.assert_allclose(found.lens.probabilities, other.top_probabilities, atol=1e-5)


def test_the_next_token_is_that_of_the_sampler(pocket: LanguageModel) -> None:
    found = inside(pocket, TEXT, k=8, temperature=0.7, top_k=5, top_p=0.9)
    want = next_token(pocket, TEXT, k=8, temperature=0.7, top_k=5, top_p=0.9)
    assert found.next_ids.tolist() == want.ids.tolist()
    np.testing.assert_allclose(found.plain.probabilities, want.before.probabilities, atol=1e-6)
    np.testing.assert_allclose(found.drawn.probabilities, want.effects[-1].probabilities, atol=1e-6)
    assert found.drawn.kept == want.effects[-1].kept
    assert found.drawn.name == "temperature 0.7, top-k 5, top-p 0.9"
    assert found.whole_plain is None and found.whole_drawn is None


def test_a_position_sees_only_what_is_before_it(pocket: LanguageModel) -> None:
    ids = passes.encode(pocket, TEXT)
    found = inside(pocket, ids, position=4, k=6)
    want = next_token(pocket, ids[:5], k=6)
    assert found.next_ids.tolist() == want.ids.tolist()
    np.testing.assert_allclose(found.logits, want.logits, atol=1e-3)


def test_parts_that_are_switched_off_change_the_logits_as_with_hooks(
    pocket: LanguageModel, hf_pocket: Any
) -> None:
    ids = passes.encode(pocket, TEXT)
    off = ["head:1.2", "attention:3", "feed-forward:4", "neuron:0.7"]
    found = inside(pocket, ids, without=off, k=10, layer=1)
    h = hf_pocket.transformer.h
    size = pocket.config.head_dim

    def zero(x: torch.Tensor, where: Any) -> torch.Tensor:
        x = x.clone()
        x[..., where] = 0
        return x

    head = slice(2 * size, 3 * size)
    hooks = [
        h[1].attn.c_proj.register_forward_pre_hook(lambda _, x: (zero(x[0], head),)),
        h[3].attn.c_proj.register_forward_hook(lambda _, x, out: torch.zeros_like(out)),
        h[4].mlp.register_forward_hook(lambda _, x, out: torch.zeros_like(out)),
        h[0].mlp.c_proj.register_forward_pre_hook(lambda _, x: (zero(x[0], 7),)),
    ]
    with torch.no_grad():
        want = hf_pocket(torch.tensor([ids])).logits[0, -1]
    for hook in hooks:
        hook.remove()
    np.testing.assert_allclose(found.logits, want[torch.tensor(found.next_ids)], atol=1e-3)
    assert found.block is not None and found.block.head_norms[2] == 0
    assert found.whole_plain is not None
    with torch.no_grad():
        whole = hf_pocket(torch.tensor([ids])).logits[0, -1].softmax(dim=0)
    np.testing.assert_allclose(
        found.whole_plain.probabilities, whole[torch.tensor(found.next_ids)], atol=1e-5
    )


def test_of_a_long_text_the_last_positions_are_shown(pocket: LanguageModel) -> None:
    whole = inside(pocket, TEXT, layer=0)
    part = inside(pocket, TEXT, layer=0, window=4)
    assert whole.block is not None and part.block is not None
    assert (whole.first, part.first) == (0, len(whole.tokens) - 4)
    assert part.block.patterns.shape == (pocket.config.n_head, 4, 4)
    np.testing.assert_array_equal(part.block.patterns, whole.block.patterns[:, -4:, -4:])
    shown = part.block.patterns.sum(axis=-1) + part.block.earlier
    np.testing.assert_allclose(shown, 1, atol=1e-5)
    # The position that is followed is among them, wherever it is, with those that it looks at.
    assert inside(pocket, TEXT, window=3, position=2).first == 0
    assert inside(pocket, TEXT, window=3, position=3).first == 1
    assert inside(pocket, TEXT, window=1, position=2).first == 2


def test_tokens_and_words_are_points_of_the_embedding(pocket: LanguageModel) -> None:
    found = inside(pocket, "The dog saw the dog", words=["cat", "grandmother"])
    assert found.point_labels == ["The", "·dog", "·saw", "·the", "cat", "grandmother"]
    assert found.point_ids[-2:] == [None, None]
    assert found.points is not None and found.points.scores.shape == (6, 2)
    assert inside(pocket, " dog dog").points is None


def test_an_open_head_shows_how_its_query_and_keys_become_its_pattern(
    pocket: LanguageModel, hf_pocket: Any, hf: dict[Any, np.ndarray]
) -> None:
    block = inside(pocket, TEXT, layer=4, head=6, position=5).block
    assert block is not None and block.opened is not None
    found, size = block.opened, pocket.config.head_dim
    with torch.no_grad():
        normed = torch.tensor(hf["ln1", 4])
        qkv = hf_pocket.transformer.h[4].attn.c_attn(normed).numpy()
    q, k, v = (x[:, 6 * size : 7 * size] for x in np.split(qkv, 3, axis=-1))
    np.testing.assert_allclose(found.query, q[5], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.keys, k, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.values, v, rtol=1e-3, atol=1e-3)
    scores = q[5] @ k.T / np.sqrt(size)
    np.testing.assert_allclose(found.scores[:6], scores[:6], atol=1e-3)
    assert found.scores[6:] == [None] * (len(k) - 6)  # later positions are masked
    np.testing.assert_allclose(found.pattern, hf["pattern", 4][6, 5], atol=1e-4)
    assert found.scale == pytest.approx(size**-0.5)


def test_the_lens_reads_as_many_positions_as_are_asked_for(pocket: LanguageModel) -> None:
    every, one = (
        inside(pocket, TEXT, position=5),
        inside(pocket, TEXT, position=5, lens_positions=1),
    )
    assert every.lens is not None and one.lens is not None
    assert (one.lens.first, len(one.lens.tokens[0])) == (5, 1)
    assert [row[0] for row in one.lens.tokens] == [row[5] for row in every.lens.tokens]
    np.testing.assert_allclose(
        one.lens.probabilities[:, 0], every.lens.probabilities[:, 5], rtol=1e-4
    )


def test_next_tokens_are_given_as_they_are_too(pocket: LanguageModel) -> None:
    found = inside(pocket, "The capital of Spain is", k=5)
    assert (found.next_tokens[0], found.next_texts[0]) == ("·Madrid", " Madrid")


def test_what_is_not_asked_for_is_left_out(pocket: LanguageModel) -> None:
    found = inside(pocket, TEXT, lens=False)
    assert found.block is None and found.lens is None
    assert json.loads(json.dumps(found.to_dict()))["sizes"]["n_layer"] == pocket.config.n_layer


def test_the_picture_shows_the_next_token_with_and_without(pocket: LanguageModel) -> None:
    from matplotlib.text import Text

    figure = inside(pocket, TEXT, without=["head:2.1"], top_k=3).plot()
    written = {text.get_text().split("\n")[0] for text in figure.findobj(Text)}
    assert {"with all parts", "without", "top-k 3"} <= written


def test_int8_shows_the_engines_own_logits() -> None:
    small = LanguageModel("pocket", "int8")
    found = inside(small, TEXT, k=5)
    ids = small.tokenizer.encode(TEXT)
    want = small.gpt.forward(ids, tap=lambda *_: None, last_only=True)[-1]
    np.testing.assert_allclose(found.logits, want[found.next_ids], atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"without": ["head:9.0"]}, "layer 9 is not there"),
        ({"without": ["eye:1"]}, "names no part"),
        ({"layer": 6}, "layer 6 is not there"),
        ({"layer": 4, "head": 8}, "head 8 is not there"),
        ({"lens_positions": 0}, "lens_positions is 0"),
        ({"position": 99}, "position 99 is not there"),
        ({"words": ["a"] + [f"w{i}" for i in range(12)]}, "there are 13 words"),
        ({"words": [" "]}, "a word is empty"),
        ({"k": 0}, "k is 0"),
        ({"window": 0}, "window is 0"),
        ({"temperature": -1}, "temperature is -1"),
    ],
)
def test_options_out_of_range_are_named(
    pocket: LanguageModel, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        inside(pocket, TEXT, **options)


def test_texts_that_cannot_be_looked_at_are_refused(pocket: LanguageModel) -> None:
    with pytest.raises(InputError, match="the text is empty"):
        inside(pocket, "")
    with pytest.raises(ContextLengthError, match="the model holds"):
        inside(pocket, "dog " * pocket.config.n_ctx)
