"""Parts taken out, against hooks on the modules of transformers."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_model

from laplm.errors import InputError
from laplm.look import passes
from laplm.look.views.ablation import Components, How, ablate, ablation_tap
from laplm.run.language_model import LanguageModel

TEXT = "Once upon a time, there was a little dog. The little dog"
OTHERS = ["The cat sat on the mat.", "One day, Tom went to the park with his mom."]


@contextlib.contextmanager
def changed(module: Any, change: Callable[[torch.Tensor], torch.Tensor], of: str) -> Iterator[None]:
    """Replace a module's input or output."""
    if of == "input":
        hook = module.register_forward_pre_hook(lambda _, inputs: (change(inputs[0]), *inputs[1:]))
    else:
        hook = module.register_forward_hook(
            lambda _, inputs, out: (
                (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)
            )
        )
    try:
        yield
    finally:
        hook.remove()


def put(where: Any, value: torch.Tensor | float) -> Callable[[torch.Tensor], torch.Tensor]:
    """A change that puts a value at some columns of all positions."""

    def change(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[..., where] = value
        return x

    return change


def logits(model: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1].numpy()


def watched(model: Any, module: Any, texts: list[list[int]]) -> torch.Tensor:
    """What goes into a module, mean over all positions of all texts."""
    kept: list[torch.Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0][0].detach()))
    for ids in texts:
        logits(model, ids)
    hook.remove()
    return torch.cat(kept).mean(dim=0)


def head(model: Any, index: int) -> slice:
    size = model.config.n_embd // model.config.n_head
    return slice(index * size, (index + 1) * size)


@pytest.mark.parametrize("how", ["zero", "mean"])
def test_every_head_taken_out_changes_the_logits_as_with_hooks(
    pocket: LanguageModel, hf_pocket: Any, how: How
) -> None:
    ids = passes.encode(pocket, TEXT)
    look = ablate(pocket, TEXT, how=how, target=" was", contrast=" ran")
    was, ran = (passes.one_token(pocket, t) for t in (" was", " ran"))
    base = logits(hf_pocket, ids)
    assert look.logit_diff == pytest.approx(float(base[was] - base[ran]), abs=1e-4)
    want, probabilities = np.empty_like(look.effect), np.empty_like(look.effect)
    for layer, block in enumerate(hf_pocket.transformer.h):
        mean = watched(hf_pocket, block.attn.c_proj, [ids])
        for i in range(pocket.config.n_head):
            where = head(hf_pocket, i)
            value = mean[where] if how == "mean" else 0.0
            with changed(block.attn.c_proj, put(where, value), "input"):
                out = logits(hf_pocket, ids)
            want[layer, i] = (out[was] - out[ran]) - (base[was] - base[ran])
            probabilities[layer, i] = torch.tensor(out).softmax(dim=0)[was]
            best = int(out[: pocket.tokenizer.vocab_size].argmax())
            assert look.answers[layer][i] == passes.token_labels(pocket, [best])[0]
    np.testing.assert_allclose(look.effect, want, rtol=0, atol=1e-4)
    np.testing.assert_allclose(look.probabilities, probabilities, rtol=0, atol=1e-4)


@pytest.mark.parametrize("how", ["zero", "mean"])
def test_sublayers_taken_out_change_the_logits_as_with_hooks(
    pocket: LanguageModel, hf_pocket: Any, how: How
) -> None:
    ids = passes.encode(pocket, TEXT)
    look = ablate(pocket, TEXT, components="layers", how=how, mean_of=OTHERS)
    target = int(logits(hf_pocket, ids).argmax())
    assert look.target == look.answer == passes.token_labels(pocket, [target])[0]
    base = logits(hf_pocket, ids)[target]
    texts = [passes.encode(pocket, text) for text in OTHERS]
    everything = slice(None)
    for layer, block in enumerate(hf_pocket.transformer.h):
        values = []
        for module in (block.attn.c_proj, block.mlp.c_proj):
            kept: list[torch.Tensor] = []
            hook = module.register_forward_hook(lambda _, i, out, to=kept: to.append(out[0]))
            for text in texts:
                logits(hf_pocket, text)
            hook.remove()
            values.append(torch.cat(kept).mean(dim=0) if how == "mean" else 0.0)
        attention = changed(block.attn.c_proj, put(everything, values[0]), "output")
        mlp = changed(block.mlp.c_proj, put(everything, values[1]), "output")
        with attention:
            only_attention = logits(hf_pocket, ids)[target] - base
        with mlp:
            only_mlp = logits(hf_pocket, ids)[target] - base
        attention = changed(block.attn.c_proj, put(everything, values[0]), "output")
        mlp = changed(block.mlp.c_proj, put(everything, values[1]), "output")
        with attention, mlp:
            both = logits(hf_pocket, ids)[target] - base
        np.testing.assert_allclose(
            look.effect[layer], [only_attention, only_mlp, both], rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("layer", [0, -1])
def test_neurons_taken_out_change_the_logits_as_with_hooks(
    pocket: LanguageModel, hf_pocket: Any, layer: int
) -> None:
    layer %= pocket.config.n_layer
    ids = passes.encode(pocket, "The little dog")
    look = ablate(pocket, "The little dog", components="neurons", layer=layer, target=" was")
    assert look.effect.shape == (1, pocket.config.n_inner)
    was = passes.one_token(pocket, " was")
    base = logits(hf_pocket, ids)[was]
    strongest = np.abs(look.effect[0]).argsort()[-5:].tolist()
    projection = hf_pocket.transformer.h[layer].mlp.c_proj
    for neuron in [0, pocket.config.n_inner - 1, *strongest]:
        with changed(projection, put(neuron, 0.0), "input"):
            want = logits(hf_pocket, ids)[was] - base
        assert look.effect[0, neuron] == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize("components", ["heads", "layers"])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantised_models_lose_what_they_lose_in_single_passes(
    tmp_path: Path, precision: Any, components: Components
) -> None:
    model = LanguageModel(make_model(tmp_path / "model", initializer_range=0.1), precision)
    ids = passes.encode(model, TEXT)
    look = ablate(model, TEXT, components=components)
    base = passes.forward(model, ids, lambda *_: None, last_only=True)[0]
    target = int(base.argmax())
    want = np.empty_like(look.effect)
    for row, layer in enumerate(look.layers):
        if components == "heads":
            taps = [ablation_tap(model, heads=[(layer, i)]) for i in range(model.config.n_head)]
        else:
            taps = [
                ablation_tap(model, attention=[layer]),
                ablation_tap(model, feed_forward=[layer]),
                ablation_tap(model, attention=[layer], feed_forward=[layer]),
            ]
        for i, tap in enumerate(taps):
            out = passes.forward(model, ids, tap, last_only=True)[0]
            want[row, i] = out[target] - base[target]
    # A number that lies between two bytes may be rounded either way, and all that follows with it.
    assert np.abs(look.effect - want).max() < 0.1 * np.abs(want).max()


def test_the_mean_may_be_over_other_texts(pocket: LanguageModel, hf_pocket: Any) -> None:
    ids = passes.encode(pocket, TEXT)
    look = ablate(pocket, TEXT, how="mean", mean_of=OTHERS, target=" was", layer=1)
    assert look.effect.shape == (1, pocket.config.n_head)
    was = passes.one_token(pocket, " was")
    projection = hf_pocket.transformer.h[1].attn.c_proj
    mean = watched(hf_pocket, projection, [passes.encode(pocket, text) for text in OTHERS])
    where = head(hf_pocket, 2)
    with changed(projection, put(where, mean[where]), "input"):
        want = logits(hf_pocket, ids)[was] - look.logit_diff
    assert look.effect[0, 2] == pytest.approx(want, abs=1e-4)


def test_text_without_some_parts_is_that_of_transformers_with_hooks(
    pocket: LanguageModel, hf_pocket: Any
) -> None:
    tap = ablation_tap(
        pocket, heads=[(1, 0), (1, 3)], attention=[2], feed_forward=[3], neurons=[(0, 5)]
    )
    text = pocket.generate("Once upon a time", 25, temperature=0, ignore_eos=True, tap=tap)
    blocks = hf_pocket.transformer.h
    with contextlib.ExitStack() as stack:
        for i in (0, 3):
            change = put(head(hf_pocket, i), 0.0)
            stack.enter_context(changed(blocks[1].attn.c_proj, change, "input"))
        stack.enter_context(changed(blocks[2].attn.c_proj, put(slice(None), 0.0), "output"))
        stack.enter_context(changed(blocks[3].mlp.c_proj, put(slice(None), 0.0), "output"))
        stack.enter_context(changed(blocks[0].mlp.c_proj, put(5, 0.0), "input"))
        ids = passes.encode(pocket, "Once upon a time")
        for _ in range(25):
            ids.append(int(logits(hf_pocket, ids)[: pocket.tokenizer.vocab_size].argmax()))
    assert list(text.token_ids) == ids[-25:]
    plain = pocket.generate("Once upon a time", 25, temperature=0, ignore_eos=True)
    assert plain.token_ids != text.token_ids


def test_a_tap_may_put_means_instead(pocket: LanguageModel) -> None:
    ids = passes.encode(pocket, TEXT)
    look = ablate(pocket, TEXT, how="mean", mean_of=OTHERS, target=" was")
    was = passes.one_token(pocket, " was")
    tap = ablation_tap(pocket, heads=[(2, 1)], how="mean", mean_of=OTHERS)
    out = passes.forward(pocket, ids, tap, last_only=True)[0]
    assert out[was] - look.logit_diff == pytest.approx(look.effect[2, 1], abs=1e-4)


def test_the_table_is_in_order_of_the_effect(pocket: LanguageModel) -> None:
    look = ablate(pocket, TEXT)
    rows = list(csv.DictReader(look.to_csv().splitlines()))
    changes = [abs(float(row["change"])) for row in rows]
    assert len(rows) == look.effect.size
    assert changes == sorted(changes, reverse=True)
    first = rows[0]
    at = int(first["layer"]), int(first["head"])
    assert float(first["change"]) == pytest.approx(float(look.effect[at]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"components": "tokens"}, "components is 'tokens', but it must be one of heads"),
        ({"how": "half"}, "how is 'half', but it must be one of zero, mean"),
        ({"components": "neurons"}, "say which layer's neurons"),
        ({"layer": 99}, "layer 99 is not there"),
        ({"target": " Barcelona was"}, "is not one token"),
        ({"target": " was", "contrast": " was"}, "compared with itself"),
        ({"how": "mean", "mean_of": ""}, "empty"),
        ({"how": "mean", "mean_of": []}, "a mean needs a text"),
    ],
)
def test_what_cannot_be_done_is_said_plainly(
    pocket: LanguageModel, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        ablate(pocket, TEXT, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "nothing is to be taken out"),
        ({"heads": [(0, 99)]}, "head 99 is not there"),
        ({"neurons": [(0, -1)]}, "neuron -1 is not there"),
        ({"attention": [99]}, "layer 99 is not there"),
        ({"heads": [(0, 0)], "how": "mean"}, "a mean needs a text"),
    ],
)
def test_a_tap_for_parts_that_are_not_there_is_refused(
    pocket: LanguageModel, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        ablation_tap(pocket, **options)


@pytest.mark.parametrize(
    "options", [{}, {"components": "layers"}, {"components": "neurons", "layer": 0}]
)
def test_pictures_and_pages_are_written(
    pocket: LanguageModel, tmp_path: Path, options: dict[str, Any]
) -> None:
    look = ablate(pocket, "One day, a dog", **options)
    assert look.save(tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "taken out" in look.save(tmp_path / "a.html").read_text()


def test_means_of_two_heads_of_one_layer_are_each_their_own(
    pocket: LanguageModel, hf_pocket: Any
) -> None:
    ids = passes.encode(pocket, TEXT)
    heads = [(2, 1), (2, 6), (3, 0)]
    projections = [block.attn.c_proj for block in hf_pocket.transformer.h]
    texts = [passes.encode(pocket, text) for text in OTHERS]
    means = {layer: watched(hf_pocket, projections[layer], texts) for layer in (2, 3)}
    with contextlib.ExitStack() as stack:
        for layer, index in heads:
            where = head(hf_pocket, index)
            change = put(where, means[layer][where])
            stack.enter_context(changed(projections[layer], change, "input"))
        want = logits(hf_pocket, ids)
    tap = ablation_tap(pocket, heads=heads, how="mean", mean_of=OTHERS)
    out = passes.forward(pocket, ids, tap, last_only=True)[0]
    np.testing.assert_allclose(out, want, rtol=0, atol=1e-4)
    # Both heads of the layer matter here: with one of them the logits are others.
    one = ablation_tap(pocket, heads=heads[1:], how="mean", mean_of=OTHERS)
    assert np.abs(passes.forward(pocket, ids, one, last_only=True)[0] - want).max() > 1e-2


@pytest.mark.parametrize("components", ["heads", "layers"])
def test_the_sentence_names_the_part_that_changes_most(
    pocket: LanguageModel, components: Any
) -> None:
    found = ablate(pocket, "The capital of Spain is", components=components, target=" Madrid")
    i, j = np.unravel_index(np.abs(found.effect).argmax(), found.effect.shape)
    said = found.sentence()
    name = {
        "heads": f"head {i}.{j}", "layers": f"{found.names[j]} {i}".replace("both", "attention and "
                                                                             "feed-forward"),
    }[components]  # fmt: skip
    assert said.startswith(f"Without {name} the logit of “·Madrid” changes most, ")
    assert f"changes most, {found.effect[i, j]:+.1f}, and “·Madrid” falls from " in said
    changed = sum(a != found.answer for row in found.answers for a in row)
    count = f"{found.effect.size} {components}"
    assert (f"; {changed} of the {count} change" if changed else f"none of the {count}") in said
