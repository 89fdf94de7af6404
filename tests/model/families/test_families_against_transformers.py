"""Every family beside transformers: small models with random weights, opened from their files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from laplm.look.sweep import Branch, sweep
from laplm.model import activations
from laplm.model.config import ModelConfig
from laplm.model.families import FAMILIES, config_from_hf, config_to_hf, tensor_specs
from laplm.model.files.checkpoint import open_checkpoint, save_checkpoint
from laplm.model.reference import DenseWeights, forward
from laplm.model.weights import DenseKVCache

Array = np.ndarray
SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 3,
    "num_attention_heads": 6, "max_position_embeddings": 64, "bos_token_id": 0,
    "eos_token_id": [2, 5], "pad_token_id": 3,
}  # fmt: skip
GQA = SIZES | {"num_key_value_heads": 2}
SCALING = {"factor": 4.0, "original_max_position_embeddings": 16}
YARN = {"rope_type": "yarn", **SCALING}
LOCAL, GLOBAL = "sliding_attention", "full_attention"
GEMMA3 = GQA | {"head_dim": 16, "sliding_window": 5, "layer_types": [LOCAL, GLOBAL, LOCAL]}
CASES: dict[str, dict[str, Any]] = {
    "llama": GQA | {"tie_word_embeddings": True},
    "llama-untied-biases": SIZES | {
        "hidden_size": 50, "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 14,
        "attention_bias": True, "mlp_bias": True, "rope_theta": 500.0, "hidden_act": "gelu",
    },
    "llama-linear": GQA | {"rope_scaling": {"type": "linear", "factor": 2.5}},
    "llama-llama3": GQA | {"rope_theta": 300.0, "rope_scaling": {
        "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, **SCALING,
    }},
    "llama-yarn": GQA | {"rope_scaling": YARN, "head_dim": 32},
    "llama-yarn-all": GQA | {"head_dim": 32, "rope_scaling": YARN | {
        "mscale": 1.2, "mscale_all_dim": 0.7, "truncate": False, "beta_fast": 4.0,
        "beta_slow": 0.5,
    }},
    "mistral": GQA | {"sliding_window": 5},
    "mistral-no-window": GQA | {"sliding_window": None, "head_dim": 16},
    "qwen2": GQA | {"tie_word_embeddings": True},
    "qwen2-windows": GQA | {
        "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1,
    },
    "qwen3": GQA | {"head_dim": 16, "tie_word_embeddings": True},
    "qwen3-biases": GQA | {
        "head_dim": 10, "attention_bias": True, "use_sliding_window": True, "sliding_window": 4,
        "max_window_layers": 2,
    },
    "gemma3_text": GEMMA3 | {"query_pre_attn_scalar": 24},
    "gemma3_text-untied-linear": GEMMA3 | {
        "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "tie_word_embeddings": False,
        "rope_local_base_freq": 200.0, "attention_bias": True,
    },
    "gpt_neox": SIZES | {"hidden_size": 96, "rotary_pct": 0.25},
    "gpt_neox-sequential": SIZES | {
        "use_parallel_residual": False, "attention_bias": False, "tie_word_embeddings": True,
        "rotary_pct": 1.0, "rotary_emb_base": 300,
    },
    "smollm3": GQA | {"no_rope_layer_interval": 2, "attention_bias": True},
    "smollm3-windows": GQA | {
        "no_rope_layers": [1, 0, 0], "use_sliding_window": True, "sliding_window": 6,
        "tie_word_embeddings": False,
    },
    "smollm3-layer-types": GQA | {
        "layer_types": [LOCAL, GLOBAL, LOCAL], "use_sliding_window": False, "sliding_window": 3,
    },
    "phi3": GQA | {"partial_rotary_factor": 0.75, "sliding_window": 9},
    "phi3-tied": GQA | {"tie_word_embeddings": True},
}  # fmt: skip
IDS = np.random.default_rng(0).integers(0, 97, 40)


class Pair(NamedTuple):
    theirs: Any
    logits: Array
    seen: dict[tuple[str, int | None], Array]
    config: ModelConfig
    weights: DenseWeights


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A model of transformers with what it computes, and the same one opened from its files."""
    family = request.param.partition("-")[0]
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **CASES[request.param], attn_implementation="eager")
    theirs = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # gains beside 1, scores that are not flat
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim == 1 else 0.15))
    directory = tmp_path_factory.mktemp(family)
    theirs.save_pretrained(directory)
    seen = watched(theirs)
    checkpoint = open_checkpoint(directory)
    tensors = {name: checkpoint.tensor(name) for name in checkpoint.names}
    weights = DenseWeights(tensors, checkpoint.config)
    return Pair(theirs, seen["logits", None], seen, checkpoint.config, weights)


def watched(model: Any) -> dict[tuple[str, int | None], Array]:
    """A pass of transformers over ``IDS``, and what its modules see, by our names."""
    seen: dict[tuple[str, int | None], Array] = {}
    hooks = []

    def watch(name: str, layer: int | None, module: Any, inputs: bool = False) -> None:
        def hook(_module: Any, given: Any, output: Any) -> None:
            found = given[0] if inputs else output[0] if isinstance(output, tuple) else output
            seen[name, layer] = found[0].detach().numpy()

        hooks.append(module.register_forward_hook(hook))

    def watch_scale(name: str, layer: int | None, module: Any) -> None:
        """What a norm divides by, which no module gives."""
        centres = isinstance(module, torch.nn.LayerNorm)
        eps = getattr(module, "variance_epsilon", None) or module.eps

        def hook(_module: Any, given: Any, _output: Any) -> None:
            x = given[0][0].detach()
            x = x - x.mean(-1, keepdim=True) if centres else x
            seen[f"{name}_scale", layer] = ((x * x).mean(-1, keepdim=True) + eps).sqrt().numpy()

        hooks.append(module.register_forward_hook(hook))

    def watch_gate_and_up(layer: int, module: Any) -> None:
        def hook(_module: Any, _given: Any, output: Any) -> None:
            gate, up = output[0].detach().chunk(2, dim=-1)
            seen["mlp_pre", layer], seen["mlp_pre_linear", layer] = gate.numpy(), up.numpy()

        hooks.append(module.register_forward_hook(hook))

    last = getattr(model.base_model, "norm", None) or model.base_model.final_layer_norm
    watch("ln_final", None, last)
    watch_scale("ln_final", None, last)
    for i, layer in enumerate(model.base_model.layers):
        attention = getattr(layer, "self_attn", None) or layer.attention
        watch("resid_pre", i, layer, inputs=True)
        watch("resid_post", i, layer)
        watch("ln1", i, layer.input_layernorm)
        watch_scale("ln1", i, layer.input_layernorm)
        for name in ("q", "k", "v"):
            if hasattr(attention, f"{name}_proj"):
                watch(name, i, getattr(attention, f"{name}_proj"))
            if hasattr(attention, f"{name}_norm"):
                watch(f"{name}_norm", i, getattr(attention, f"{name}_norm"))
        if hasattr(layer.mlp, "gate_up_proj"):
            watch_gate_and_up(i, layer.mlp.gate_up_proj)
        elif hasattr(layer.mlp, "gate_proj"):
            watch("mlp_pre", i, layer.mlp.gate_proj)
            watch("mlp_pre_linear", i, layer.mlp.up_proj)
        else:
            watch("mlp_pre", i, layer.mlp.dense_h_to_4h)
        out = getattr(attention, "o_proj", None) or attention.dense
        watch("z", i, out, inputs=True)
        down = getattr(layer.mlp, "down_proj", None) or layer.mlp.dense_4h_to_h
        watch("mlp_post", i, down, inputs=True)
        if hasattr(layer, "post_feedforward_layernorm"):
            watch("attn_out", i, layer.post_attention_layernorm)
            watch("ln2", i, layer.pre_feedforward_layernorm)
            watch_scale("ln2", i, layer.pre_feedforward_layernorm)
            watch("mlp_out", i, layer.post_feedforward_layernorm)
            watch_scale("ln1_post", i, layer.post_attention_layernorm)
            watch_scale("ln2_post", i, layer.post_feedforward_layernorm)
        else:
            watch("attn_out", i, attention)
            watch("ln2", i, layer.post_attention_layernorm)
            watch_scale("ln2", i, layer.post_attention_layernorm)
            watch("mlp_out", i, layer.mlp)
    watch("embed", None, model.get_input_embeddings())
    turned = []
    module = sys.modules[type(model).__module__]
    rotate = module.apply_rotary_pos_emb

    def rotate_and_note(*given: Any, **named: Any) -> Any:
        turned.append(rotate(*given, **named))
        return turned[-1]

    module.apply_rotary_pos_emb = rotate_and_note
    try:
        with torch.no_grad():
            out = model(torch.tensor(IDS[None]), output_attentions=True)
    finally:
        module.apply_rotary_pos_emb = rotate
        for hook in hooks:
            hook.remove()
    seen["logits", None] = out.logits[0].numpy()
    if model.config.model_type == "gemma3_text":  # it has heads before positions there
        for name, layer in [key for key in seen if key[0] in ("q_norm", "k_norm")]:
            seen[name, layer] = seen[name, layer].swapaxes(0, 1)
    for i, pattern in enumerate(out.attentions):
        seen["pattern", i] = pattern[0].numpy()
    if len(turned) == len(out.attentions):  # not where some layers have no positions
        for i, (q, k) in enumerate(turned):
            seen["rot_q", i] = q[0].transpose(0, 1).numpy()
            seen["rot_k", i] = k[0].transpose(0, 1).numpy()
    return seen


def close(ours: Array, theirs: Array, what: object = "") -> None:
    scale = max(1.0, float(np.abs(theirs).max()) / 10)
    np.testing.assert_allclose(
        ours.reshape(theirs.shape), theirs, rtol=0, atol=1e-4 * scale, err_msg=str(what)
    )


def test_logits_are_those_of_transformers(pair: Pair) -> None:
    assert np.abs(pair.logits).max() > 1
    close(forward(IDS, pair.weights, pair.config), pair.logits)
    last = forward(IDS, pair.weights, pair.config, last_only=True)
    close(last, pair.logits[-1:])


def test_a_text_may_come_token_by_token_and_in_parts(pair: Pair) -> None:
    past = DenseKVCache()
    ends = [1, 2, 3, 4, 5, 6, 7, 8, 30, 40]
    parts = [
        forward(IDS[start:end], pair.weights, pair.config, past)
        for start, end in zip([0, *ends], ends, strict=False)
    ]
    close(np.concatenate(parts), pair.logits)


def test_activations_are_those_of_transformers(pair: Pair) -> None:
    cache = activations.run_with_cache(
        lambda tap: forward(IDS, pair.weights, pair.config, tap=tap), pair.config, IDS
    )
    assert set(cache) == set(activations.every_key(pair.config))
    for name, layer in cache:
        assert cache[name, layer].shape == activations.activation_shape(
            pair.config, name, len(IDS)
        ), name
    for key, theirs in pair.seen.items():
        close(cache[key], theirs, key)


def test_what_is_written_is_the_same_model_to_transformers(pair: Pair, tmp_path: Path) -> None:
    assert config_from_hf(config_to_hf(pair.config)) == pair.config
    assert pair.config.eos_token_ids == (2, 5)
    assert (pair.config.bos_token_id, pair.config.pad_token_id) == (0, 3)
    save_checkpoint(tmp_path / "model", pair.config, pair.weights.tensors)
    again, told = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", attn_implementation="eager", output_loading_info=True
    )
    assert not any(told.values())
    with torch.no_grad():
        np.testing.assert_array_equal(again(torch.tensor(IDS[None])).logits[0], pair.logits)
    assert open_checkpoint(tmp_path / "model").config == pair.config


def test_a_sweep_goes_on_from_any_sublayer(pair: Pair) -> None:
    cache = activations.run_with_cache(
        lambda tap: forward(IDS, pair.weights, pair.config, tap=tap), pair.config, IDS
    )
    steps = [(0, cache["resid_pre", 0]), (4, cache["resid_pre", 2]), (6, cache["resid_post", 2])]
    if not pair.config.parallel_residual:
        steps.insert(1, (1, cache["resid_mid", 0]))
    branches = [Branch(step, 1, lambda some, x=x: x[None][some]) for step, x in steps]
    for finished in sweep(branches, pair.weights, pair.config, len(IDS)):
        for logits in finished.logits:
            close(logits, pair.logits[-1])


def test_parameters_and_multiplications_are_counted(pair: Pair) -> None:
    assert pair.config.n_parameters == pair.theirs.num_parameters()
    linear = [s.shape for s in tensor_specs(pair.config).values() if s.is_linear]
    assert pair.config.n_multiplied == sum(a * b for a, b in linear)


def test_every_family_is_among_the_cases() -> None:
    assert {name.partition("-")[0] for name in CASES} == FAMILIES.keys() - {"gpt2"}
