"""What a neuron does, against hooks on the modules of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hf_activations import hf_activations
from transformers import LlamaForCausalLM

from laplm.errors import InputError
from laplm.look import neuron, passes
from laplm.look.view import Passage, Table
from laplm.look.views import neuron as module
from laplm.look.views.neuron import TEXTS
from laplm.run.language_model import LanguageModel

UNIT = "4.100"


def test_what_excites_it_is_where_transformers_has_it_highest(
    pocket: LanguageModel, hf_pocket: Any
) -> None:
    found = neuron(pocket, UNIT, k=5)
    values, before, where = [], [], []
    for i, text in enumerate(TEXTS):
        ids = pocket.tokenizer.encode(text)
        seen = hf_activations(hf_pocket, ids)
        values += seen["mlp_post", 4][:, 100].tolist()
        before += seen["mlp_pre", 4][:, 100].tolist()
        where += [(i, at, label) for at, label in enumerate(passes.token_labels(pocket, ids))]
    assert (found.n_texts, found.n_tokens, found.n_left_out) == (12, len(values), 0)
    assert found.active == pytest.approx(np.mean(np.array(before) > 0))
    assert found.mean == pytest.approx(np.mean(values), abs=1e-5)
    assert found.deviation == pytest.approx(np.std(values), abs=1e-5)
    for sign, shown in ((1, found.highest), (-1, found.lowest)):
        chosen: list[int] = []  # of one stretch of a text the strongest alone
        for i in np.argsort(-sign * np.array(values)):
            if all(where[i][0] != where[j][0] or abs(i - j) >= 8 for j in chosen):
                chosen.append(int(i))
        for each, i in zip(shown, chosen[:5], strict=True):
            assert each.activation == pytest.approx(values[i], abs=1e-4)
            if abs(values[i]) > 0.2:  # elsewhere many are as good as alike
                assert (each.text, each.position, each.token) == where[i]
    each = found.highest[0]
    around = f"{each.before}{each.token.replace('·', ' ')}{each.after}".replace("↵", "\n")
    assert around in TEXTS[each.text] and len(each.tokens) == len(each.activations) > 5
    assert found.counts.sum() == len(values) and len(found.edges) == len(found.counts) + 1


def test_what_it_promotes_is_its_row_through_the_unembedding(
    pocket: LanguageModel, hf_pocket: Any
) -> None:
    found = neuron(pocket, UNIT, "The dog", words=6)
    row = hf_pocket.transformer.h[4].mlp.c_proj.weight.detach()[100]
    direction = (row - row.mean()) * hf_pocket.transformer.ln_f.weight.detach()
    logits = hf_pocket.transformer.wte.weight.detach() @ direction
    for values, names, weights in (
        (logits, found.promotes, found.promoted), (-logits, found.suppresses, -found.suppressed)
    ):  # fmt: skip
        want = values.topk(6)
        np.testing.assert_allclose(weights, want.values, atol=1e-5)
        assert names == passes.token_labels(pocket, want.indices.tolist())


def test_a_gated_one_is_the_gate_times_up_and_has_lows(tiny_llama_dir: Path) -> None:
    model = LanguageModel(tiny_llama_dir, "fp32")
    theirs = LlamaForCausalLM.from_pretrained(tiny_llama_dir).eval()
    kept: dict[str, torch.Tensor] = {}
    mlp = theirs.model.layers[1].mlp
    mlp.down_proj.register_forward_pre_hook(lambda _, x: kept.update(post=x[0][0, :, 7]))
    mlp.gate_proj.register_forward_hook(lambda _m, _x, out: kept.update(gate=out[0, :, 7]))
    ids = model.tokenizer.encode("The capital of Spain is")
    with torch.no_grad():
        theirs(torch.tensor([ids]))
    found = neuron(model, "1.7", "The capital of Spain is", k=len(ids))
    order = kept["post"].sort(descending=True)
    np.testing.assert_allclose([e.activation for e in found.highest], order.values, atol=1e-6)
    assert [e.position for e in found.highest] == order.indices.tolist()
    assert found.lowest[0].position == int(kept["post"].argmin())
    assert found.active == pytest.approx(float((kept["gate"] > 0).float().mean()))
    assert found.gated and "its gate is open at" in found.sentence()
    assert "below 0" in found.parts()[-1].title
    weight = mlp.down_proj.weight.detach()[:, 7] * theirs.model.norm.weight.detach()  # not centred
    want = (theirs.lm_head.weight.detach() @ weight).topk(8)
    np.testing.assert_allclose(found.promoted, want.values, atol=1e-6)


def test_long_texts_are_read_in_windows_that_begin_as_texts_do(
    bos_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LanguageModel(bos_model_dir, "fp32")
    monkeypatch.setattr(module, "WINDOW", 4)
    text = "The capital of Spain is Madrid"
    ids, (begin,) = model.tokenizer.encode(text), model.tokenizer.prefix_ids
    found = neuron(model, "0.3", [text, "", "a"], k=20)
    want = []
    for start in range(0, len(ids), 4):
        run = passes.run_with_cache(model, [begin, *ids[start : start + 4]], ["mlp_post"])
        want += run["mlp_post", 0][1:, 3].tolist()
    assert len(want) == len(ids) > 5 and found.n_tokens == len(ids) + 1 and found.n_texts == 2
    first = sorted((e.position, e.activation) for e in found.highest if e.text == 0)
    np.testing.assert_allclose([value for _, value in first], want, atol=1e-6)
    assert [at for at, _ in first] == list(range(len(ids)))
    assert {e.text for e in found.highest} == {0, 2}
    little = neuron(model, "0.3", text, k=20, max_tokens=5)
    assert (little.n_tokens, little.n_left_out) == (5, len(ids) - 5)
    assert f"{len(ids) - 5} more were left out" in little.parts()[2].note


def test_nothing_is_computed_beyond_its_layer(pocket: LanguageModel) -> None:
    asked: list[None] = []
    counts = []
    for unit in ("0.1", "5.1"):
        asked.clear()
        with passes.cancellable(lambda: asked.append(None)):
            neuron(pocket, unit, "The dog", words=1)
        counts.append(len(asked))
    assert counts[0] < counts[1] / 3


def test_of_one_stretch_the_strongest_alone_is_shown_where_there_is_much(
    pocket: LanguageModel,
) -> None:
    few = neuron(pocket, UNIT, "The dog saw the cat.", k=3)
    assert len({e.position for e in few.highest}) == 3
    many = neuron(pocket, UNIT, k=10)
    places = [(e.text, e.position) for e in many.highest]
    assert len(set(places)) == 10
    for i, (text, at) in enumerate(places):
        assert all(text != other or abs(at - b) >= 8 for other, b in places[:i])


def test_the_sentence_and_the_tables_say_the_numbers(pocket: LanguageModel) -> None:
    found = neuron(pocket, UNIT, k=4, words=3)
    best = found.highest[0]
    assert found.sentence().startswith(
        f"Neuron 4.100 is excited most by “{best.token}”, {best.activation:+.2f}"
    )
    assert f"it is active at {found.active:.1%} of {found.n_tokens} tokens" in found.sentence()
    assert f"promotes “{found.promotes[0]}” most and suppresses “{found.suppresses[0]}”." in (
        found.sentence()
    )
    excited, says, numbers, passage = found.parts()
    assert isinstance(excited, Table) and isinstance(says, Table) and isinstance(numbers, Table)
    assert excited.rows[0][:2] == [best.activation, best.token]
    assert f"[{best.token.replace('·', ' ')}]" in excited.rows[0][2]
    assert [row[0] for row in says.rows] == found.promotes
    assert isinstance(passage, Passage)
    assert max(s.strength for s in passage.spans if s.strength is not None) == 1
    quiet = neuron(pocket, UNIT, best_quiet(pocket), k=1)
    assert "is excited by none, at most -0." in quiet.sentence()
    excites, adds, spread = found.plot().axes
    widths = [[bar.get_width() for bar in axes.patches] for axes in (excites, adds)]
    np.testing.assert_allclose(widths[0], [each.activation for each in found.highest])
    np.testing.assert_allclose(widths[1], [*found.promoted, *found.suppressed])
    assert [text.get_text() for text in adds.get_yticklabels()][:3] == found.promotes
    assert spread.get_ylabel() == "tokens"


def best_quiet(model: LanguageModel) -> str:
    """A token that does not excite the neuron by itself."""
    for text in ("The", "a", "dog", "is", "Madrid", "1"):
        ids = model.tokenizer.encode(text)
        if len(ids) == 1:
            post = passes.run_with_cache(model, ids, ["mlp_post"])["mlp_post", 4][0, 100]
            if -0.17 < post < -0.001:
                return text
    raise AssertionError("every one of them excites it")


@pytest.mark.parametrize(
    ("unit", "given", "words"),
    [
        ("4", {}, "'4' names no neuron: write LAYER.NEURON"),
        ("4.x", {}, "names no neuron"),
        ("9.0", {}, "layer 9 is not there"),
        ("0.5000", {}, "neuron 5000 is not there"),
        ("0.1", {"texts": ["", ""]}, "the texts are empty"),
        ("0.1", {"k": 0}, "k is 0"),
        ("0.1", {"words": 0}, "words is 0"),
        ("0.1", {"max_tokens": 0}, "max_tokens is 0"),
    ],
)
def test_what_cannot_be_is_refused(
    pocket: LanguageModel, unit: str, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words.replace(".", r"\.")):
        neuron(pocket, unit, **given)
