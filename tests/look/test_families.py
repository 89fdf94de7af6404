"""Every view of every family: it works, and its numbers are those of the model."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from any_view import TEXT, check_sentence, make_view
from peft import LoraConfig, get_peft_model
from tiny_families import FAMILIES, make_family

from laplm import look
from laplm.look import VIEWS, passes
from laplm.look.path_patching import Node, PathPatching
from laplm.look.registry import ViewEntry
from laplm.look.unembedding import direct_logits
from laplm.look.view import Grid, Maps, Table
from laplm.look.views.logit_attribution import required_activations
from laplm.model.families import FAMILIES as KNOWN
from laplm.model.families.ops import softmax
from laplm.model.weights import Tap
from laplm.run.language_model import LanguageModel

OTHER = "The capital is Spain is"


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("models") / request.param
    hf = make_family(request.param, path)
    found = LanguageModel(str(path), "fp32")
    found.hf = hf  # type: ignore[attr-defined]
    return found


def name_of(model: LanguageModel) -> str:
    return Path(model.path).name


def test_every_family_is_tried() -> None:
    assert FAMILIES.keys() == KNOWN.keys()


@pytest.mark.parametrize("entry", VIEWS, ids=lambda entry: entry.name)
def test_every_view_works(entry: ViewEntry, model: LanguageModel) -> None:
    more: dict[str, Any] = {}
    if entry.name in ("patch", "patched"):
        more = {"clean": TEXT, "corrupted": OTHER}
    if entry.name == "kinds":
        more = {"length": 10, "repeats": 3}
    if entry.name == "inside":
        more = {"layer": 1, "without": ["head:1.2"]}
    view = make_view(entry, model, TEXT, **more)
    check_sentence(view)
    for part in view.parts():
        if isinstance(part, Table):
            values = [v for row in part.rows for v in row if isinstance(v, float)]
            assert np.isfinite(values).all(), part.title
            assert all(len(row) == len(part.columns) for row in part.rows)
        if isinstance(part, Grid | Maps):
            assert np.isfinite(part.values).any(), part.title


def final_direction(model: LanguageModel, token_id: int, scale: float) -> np.ndarray:
    """What a residual stream is multiplied with to give a token's logit, by the unembedding."""
    return direct_logits(model, np.eye(model.config.n_embd, dtype=np.float32))[:, token_id] / scale


def test_attributed_parts_sum_to_the_logit_difference(model: LanguageModel) -> None:
    ids = passes.encode(model, TEXT)
    for position in (0, len(ids) - 1):
        for contrast in (None, "a"):
            found = look.logit_attribution(
                model, TEXT, target=" the", contrast=contrast, position=position
            )
            parts = found.embed + found.pos_embed + found.heads.sum() + found.feed_forward.sum()
            parts += found.attention_bias.sum() + found.norm_shift
            assert parts == pytest.approx(found.total, abs=1e-3)
            assert abs(found.rounding) < 1e-3
            assert (found.pos_embed == 0) == (name_of(model) != "gpt2")
    with torch.no_grad():
        logits = model.hf(torch.tensor([ids])).logits[0, -1]  # type: ignore[attr-defined]
    assert found.total == pytest.approx(
        float(logits[found.target_id] - logits[found.contrast_id]), abs=1e-3
    )


def test_a_head_adds_what_comes_of_it_alone_with_all_scales_held(model: LanguageModel) -> None:
    ids = passes.encode(model, TEXT)
    found = look.logit_attribution(model, TEXT)
    run = passes.run_with_cache(model, ids, [*required_activations(model), "attn_out"])
    scale = float(run["ln_final_scale"][-1, 0])
    along = final_direction(model, found.target_id, scale)
    assert found.feed_forward[1] == pytest.approx(float(run["mlp_out", 1][-1] @ along), abs=1e-4)

    def attention(only: int) -> float:
        """What attention of layer 1 adds with one head alone (or with none)."""

        def tap(name: str, layer: int | None, x: np.ndarray) -> np.ndarray | None:
            if (name, layer) == ("z", 1):
                return np.where(np.arange(4)[:, None] == only, x, np.float32(0))
            if (name, layer) == ("ln1_post_scale", 1):
                return run["ln1_post_scale", 1]
            return None

        changed = passes.run_with_cache(model, ids, ["attn_out"], tap)
        return float(changed["attn_out", 1][-1] @ along)

    bias = attention(-1)
    assert found.attention_bias[1] == pytest.approx(bias, abs=1e-4)
    for head in range(4):
        assert found.heads[1, head] == pytest.approx(attention(head) - bias, abs=1e-4)


def test_all_edges_together_are_the_model(model: LanguageModel) -> None:
    ids, other = (model.tokenizer.encode(text) for text in (TEXT, OTHER))
    patching = PathPatching(model, ids, other)
    every = [edge for sender in range(1, patching.n_senders + 1) for position in range(len(ids))
             if sender < patching.n_senders or position == len(ids) - 1
             for edge in patching.edges_into(Node(sender, position))]  # fmt: skip
    logits = patching.run_circuit(every)
    np.testing.assert_allclose(logits, model.gpt.forward(ids)[-1], atol=2e-3)
    nothing = patching.run_circuit([])
    np.testing.assert_allclose(nothing, model.gpt.forward(other)[-1], atol=2e-3)
    assert np.abs(logits - nothing).max() > 0.1
    assert patching.grouped == (name_of(model) == "gemma3_text")


def test_a_neuron_writes_what_is_told_of_it(model: LanguageModel) -> None:
    """Its vector is what the feed-forward adds with it alone, all scales held."""
    ids = passes.encode(model, TEXT)
    post = ["ln2_post_scale"] if model.config.post_norms else []
    run = passes.run_with_cache(model, ids, ["mlp_post", *post])
    first = look.block(model, TEXT, layer=1).neurons[0]

    def feed_forward(only: int) -> np.ndarray:
        def tap(name: str, layer: int | None, x: np.ndarray) -> np.ndarray | None:
            if (name, layer) == ("mlp_post", 1):
                return np.where(np.arange(48) == only, x, np.float32(0))
            return run["ln2_post_scale", 1] if (name, layer) == ("ln2_post_scale", 1) else None

        return passes.run_with_cache(model, ids, ["mlp_out"], tap)["mlp_out", 1][-1]

    added = feed_forward(first.index) - feed_forward(-1)
    assert first.norm == pytest.approx(float(np.linalg.norm(added)), rel=1e-4)
    assert first.activation == pytest.approx(float(run["mlp_post", 1][-1, first.index]), abs=1e-5)
    scale = float(run["ln2_post_scale", 1][-1, 0]) if post else 1.0
    logits = direct_logits(model, added * scale / first.activation)
    found = look.neuron(model, f"1.{first.index}", TEXT, words=3)
    np.testing.assert_allclose(found.promoted, np.sort(logits)[::-1][:3], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.suppressed, np.sort(logits)[:3], rtol=1e-3, atol=1e-4)
    assert max(each.activation for each in found.highest) >= first.activation - 1e-5


def test_what_norms_bring_to_one_value_is_what_is_shown(model: LanguageModel) -> None:
    found = look.block(model, TEXT, layer=1)
    table = next(part for part in found.parts() if part.title == "what the norms do")
    assert isinstance(table, Table)
    names = [column.name for column in table.columns][2:]
    x = passes.run_with_cache(model, passes.encode(model, TEXT), ["resid_pre"])["resid_pre", 1]
    first = np.array([row[2:6] for row in table.rows], np.float64)
    if name_of(model) in ("gpt2", "gpt_neox"):
        assert names[:4] == ["ln1 mean before", "ln1 mean after", "ln1 variance before",
                             "ln1 variance after"]  # fmt: skip
        np.testing.assert_allclose(first[:, 2], x.var(axis=-1), rtol=1e-4)
        np.testing.assert_allclose(first[:, 1], 0, atol=1e-5)
    else:
        assert names == [f"{norm} RMS {when}" for norm in ("ln1", "ln2")
                         for when in ("before", "after")]  # fmt: skip
        np.testing.assert_allclose(first[:, 0], np.sqrt((x * x).mean(axis=-1)), rtol=1e-4)
        np.testing.assert_allclose(first[:, [1, 3]], 1, atol=1e-3)


def test_what_heads_add_in_an_open_block_is_all_that_attention_adds(model: LanguageModel) -> None:
    found = look.inside(model, TEXT, layer=1).block
    run = passes.run_with_cache(model, passes.encode(model, TEXT), ["attn_out", "z"])
    assert found is not None and found.head_norms.shape == (4,)

    def alone(head: int) -> np.ndarray:
        held = passes.run_with_cache(model, passes.encode(model, TEXT), names)

        def tap(name: str, layer: int | None, x: np.ndarray) -> np.ndarray | None:
            if (name, layer) == ("z", 1):
                return np.where(np.arange(4)[:, None] == head, x, np.float32(0))
            return held["ln1_post_scale", 1] if (name, layer) == ("ln1_post_scale", 1) else None

        ids = passes.encode(model, TEXT)
        return passes.run_with_cache(model, ids, ["attn_out"], tap)["attn_out", 1][-1]

    names = ["ln1_post_scale"] if model.config.post_norms else ["z"]
    nothing = alone(-1)
    heads = [alone(head) - nothing for head in range(4)]
    np.testing.assert_allclose(np.sum(heads, axis=0) + nothing, run["attn_out", 1][-1], atol=1e-4)
    np.testing.assert_allclose(found.head_norms, np.linalg.norm(heads, axis=-1), rtol=1e-3)


def test_query_heads_that_share_a_key_head_are_told_where_heads_are_listed(
    model: LanguageModel,
) -> None:
    config = model.config
    said = {
        4: "", 2: "Query heads 0 and 1 share key head 0 and 2 and 3 key head 1.",
        1: "All 4 query heads share one key head.",
    }[config.n_kv_head]  # fmt: skip
    for view in (
        look.attention(model, TEXT), look.attention(model, TEXT, layer=0), look.ablate(model, TEXT),
        look.logit_attribution(model, TEXT), look.why(model, TEXT, k=1), look.stats(model),
        look.head_kinds(model, length=10), look.inside(model, TEXT, layer=0),
    ):  # fmt: skip
        notes = [part.note for part in view.parts()]
        assert any(said in note for note in notes)
        assert said or not any("share" in note and "key head" in note for note in notes)


def test_a_model_is_compared_with_its_adapter(model: LanguageModel, tmp_path: Path) -> None:
    hf = model.hf  # type: ignore[attr-defined]
    tuned = get_peft_model(
        copy.deepcopy(hf), LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear")
    )
    tuned.peft_config["default"].base_model_name_or_path = str(model.path)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    tuned.eval().save_pretrained(tmp_path)
    ids = torch.tensor([passes.encode(model, TEXT)])
    with torch.no_grad():
        first, second = (
            each(ids, output_attentions=True, output_hidden_states=True) for each in (hf, tuned)
        )
    found = look.compare(model, LanguageModel(str(tmp_path), "fp32"), TEXT)
    assert found.attention is not None and found.residual is not None and not found.why
    moved = [(a - b).abs().sum(-1).mean(-1)[0] / 2 for a, b in zip(
        first.attentions, second.attentions, strict=True)]  # fmt: skip
    np.testing.assert_allclose(found.attention, torch.stack(moved), atol=1e-4)
    a, b = first.hidden_states[1][0], second.hidden_states[1][0]
    np.testing.assert_allclose(found.residual[1], (a - b).norm(dim=-1) / a.norm(dim=-1), atol=1e-4)
    assert not found.residual[0].any() and found.residual[2].min() > 0.01
    p, q = (torch.log_softmax(each.logits[0, -1].double(), -1) for each in (first, second))
    bits = float((q.exp() * (q - p)).sum() / math.log(2))
    assert found.divergence == pytest.approx(bits, abs=1e-3) and bits > 1e-3


def without(model: LanguageModel, tap: Tap, token: str) -> float:
    ids = passes.encode(model, TEXT)
    (target,) = model.tokenizer.encode(token)
    return float(passes.forward(model, ids, tap)[-1, target])


def test_ablation_is_a_pass_without_the_part(model: LanguageModel) -> None:
    whole = without(model, lambda *_: None, " the")
    heads = look.ablate(model, TEXT, target=" the")
    layers = look.ablate(model, TEXT, components="layers", target=" the")
    neurons = look.ablate(model, TEXT, components="neurons", layer=0, target=" the")
    for layer in (0, 1):
        for head in (0, 3):
            tap = look.ablation_tap(model, heads=[(layer, head)])
            change = without(model, tap, " the") - whole
            assert heads.effect[layer, head] == pytest.approx(change, abs=1e-4)
        for column, parts in enumerate(
            ({"attention": [layer]}, {"feed_forward": [layer]},
             {"attention": [layer], "feed_forward": [layer]})
        ):  # fmt: skip
            tap = look.ablation_tap(model, **parts)  # type: ignore[arg-type]
            change = without(model, tap, " the") - whole
            assert layers.effect[layer, column] == pytest.approx(change, abs=1e-4)
    for neuron in (0, 7, 47):
        tap = look.ablation_tap(model, neurons=[(0, neuron)])
        change = without(model, tap, " the") - whole
        assert neurons.effect[0, neuron] == pytest.approx(change, abs=1e-4)
    assert np.abs(heads.effect).max() > 1e-2 and np.abs(neurons.effect).max() > 1e-2


def test_a_patch_is_a_pass_with_the_activation_put_in(model: LanguageModel) -> None:
    found = look.patch(model, OTHER, TEXT, target=" the", contrast="a")
    for i, stage in enumerate(found.stages):
        for layer in (0, 1):
            for position in (1, len(found.clean) - 1):
                tap = look.patching_tap(
                    model, OTHER, TEXT, stage=stage, layer=layer, positions=[position]
                )
                want = without(model, tap, " the") - without(model, tap, "a")
                got = found.logit_diffs[i, layer, position]
                assert got == pytest.approx(want, abs=1e-4), (stage, layer, position)


def test_wavelengths_are_those_that_transformers_turns_by(model: LanguageModel) -> None:
    if name_of(model) == "gpt2":
        pytest.skip("it has a table of positions")
    found = look.positions(model)
    rotary = model.hf.base_model.rotary_emb  # type: ignore[attr-defined]
    windows = [None, None]
    kinds = {kind.layers[0]: kind for kind in found.kinds}
    if name_of(model) == "gemma3_text":
        want = {
            layer: getattr(rotary, f"{kind}_attention_inv_freq")
            for layer, kind in enumerate(("sliding", "full"))
        }
        windows = [4, None]
    else:
        want = {0: rotary.inv_freq}
        windows = [4, 4] if name_of(model) == "mistral" else windows
    assert kinds.keys() == want.keys()
    assert found.without == ([1] if name_of(model) == "smollm3" else [])
    for layer, frequencies in want.items():
        kind = kinds[layer]
        np.testing.assert_allclose(kind.wavelengths, 2 * math.pi / frequencies.numpy(), rtol=1e-6)
        assert kind.window == windows[layer]
        q = np.exp(1j * frequencies.double().numpy())
        assert kind.by_distance[3] == pytest.approx(float((q**3).real.mean()), abs=1e-5)
    assert sum(len(kind.layers) for kind in found.kinds) + len(found.without) == 2
    lines = found.plot().axes[0].lines
    assert [len(line.get_ydata()) for line in lines] == [found.rotary_dim // 2] * (len(kinds) + 1)


def test_without_turning_the_first_attention_knows_no_order(model: LanguageModel) -> None:
    if FAMILIES[name_of(model)].get("sliding_window"):
        pytest.skip("its window hides what is earlier")
    found = look.word_order(model, "a dog the cat", "a cat the dog", ending=" is")
    assert found.same_tokens
    turned, unturned = found.attention_cosine
    assert unturned == pytest.approx(1, abs=1e-5) and turned < 0.9999
    assert found.rotary == (name_of(model) != "gpt2")


def test_operations_count_the_matrices_that_there_are(model: LanguageModel) -> None:
    stats = look.stats(model)
    linear = sum(row.first for row in stats.operations if "scores" not in row.part)
    config = model.config
    assert linear == 2 * (config.n_multiplied + config.n_embd * config.vocab_size)
    assert sum(size.parameters for size in stats.sizes) == config.n_parameters
    table = stats.parts()[1]
    assert isinstance(table, Table)
    windows = {str(row[0]): row[1] for row in table.rows if "seen back" in str(row[0])}
    assert windows == {
        "mistral": {"layers 0, 1: tokens seen back": 4},
        "gemma3_text": {"layer 0: tokens seen back": 4},
    }.get(name_of(model), {})


def test_an_open_head_compares_the_queries_and_keys_that_are_scored(model: LanguageModel) -> None:
    config, head = model.config, model.config.n_head - 1
    block = look.inside(model, TEXT, layer=1, head=head).block
    assert block is not None and block.opened is not None
    found, seen = block.opened, np.array([s is not None for s in block.opened.scores])
    assert found.key_head == config.n_kv_head - 1
    # A window of 4 masks the first ones where the model has one.
    window = config.layer_window(1)
    assert sum(seen) == min(len(seen), window or len(seen)) and seen[-1]
    want = found.keys @ found.query * found.scale
    got = [score for score in found.scores if score is not None]
    np.testing.assert_allclose(got, want[seen], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.pattern[seen], softmax(want[seen]), rtol=1e-4, atol=1e-6)
    assert not found.pattern[~seen].any()
