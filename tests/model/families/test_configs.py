"""``config.json`` of models that people have, as they were published, read as transformers does."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from published import LLAMA3, PUBLISHED
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from laplm.errors import ModelFormatError
from laplm.model.config import ModelConfig, RopeScaling
from laplm.model.families import (
    FAMILIES,
    config_from_hf,
    config_to_hf,
    family_named,
    tensor_specs,
)
from laplm.model.families.rope import rope_cos_sin, rope_frequencies
from laplm.model.pretrained_settings import PretrainedSettings
from laplm.model.reference import DenseWeights, forward


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_read_as_transformers_reads_them(name: str) -> None:
    count, values = PUBLISHED[name]
    config = config_from_hf(values)
    theirs = AutoConfig.for_model(**values)
    assert config_from_hf(theirs.to_dict()) == config
    assert config_from_hf(config_to_hf(config)) == config
    assert config.n_parameters == count
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(theirs)
    assert model.num_parameters() == count
    linear = [s.shape for s in tensor_specs(config).values() if s.is_linear]
    assert config.n_multiplied == sum(a * b for a, b in linear)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_written_again_with_all_that_they_say(name: str) -> None:
    values = PUBLISHED[name][1] | {"hidden_act": "gelu_fast", "hidden_activation": "gelu_fast"}
    settings = PretrainedSettings(config=values)
    written = settings.files(config_from_hf(values), "float32", None)["config.json"]
    came, again = (AutoConfig.for_model(**v).to_dict() for v in (values, written))
    changed = {k for k in came if again[k] != came[k]} - {"architectures", "dtype"}
    assert not changed
    assert again["architectures"] == [family_named(values["model_type"]).HF_ARCHITECTURE]


@pytest.mark.parametrize("kind", FAMILIES)
def test_what_a_file_leaves_out_is_transformers_default(kind: str) -> None:
    ours = config_from_hf({"model_type": kind})
    theirs = config_from_hf(AutoConfig.for_model(kind).to_dict())
    # But for tokens: 2 ends texts only where a file says so.
    tokens = {"bos_token_id": None, "eos_token_ids": (), "pad_token_id": None}
    assert dataclasses.replace(ours, **tokens) == dataclasses.replace(theirs, **tokens)
    if kind != "gpt2":
        assert (ours.bos_token_id, ours.eos_token_ids, ours.pad_token_id) == (None, (), None)


@pytest.mark.parametrize("kind", FAMILIES)
def test_tokens_are_those_of_both_files(kind: str) -> None:
    values = {"model_type": kind, "eos_token_id": 7, "bos_token_id": None}
    config = config_from_hf(values, {"eos_token_id": [8, 7], "bos_token_id": 4})
    assert (config.eos_token_ids, config.bos_token_id) == ((7, 8), 4)


# --- rotary positions ---------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from(["default", "linear", "llama3", "yarn"]),
    st.integers(1, 64).map(lambda half: 2 * half),
    st.floats(1.5, 5e6),
    st.floats(1, 64),
    st.integers(4, 8192),
    st.tuples(st.floats(0.1, 4), st.floats(1.1, 16)),
    st.none() | st.floats(0.1, 4),
    st.booleans(),
)
def test_frequencies_are_those_of_transformers(
    kind: str,
    dim: int,
    theta: float,
    factor: float,
    original: int,
    turns: tuple[float, float],
    attention_factor: float | None,
    truncate: bool,
) -> None:
    low, high = turns[0], turns[0] * turns[1]
    own = {
        "default": {},
        "linear": {"factor": factor},
        "llama3": {"factor": factor, "low_freq_factor": low, "high_freq_factor": high},
        "yarn": {"factor": factor, "beta_slow": low, "beta_fast": high, "truncate": truncate},
    }[kind]
    if kind in ("llama3", "yarn"):
        own["original_max_position_embeddings"] = original
    if kind == "yarn" and attention_factor is not None:
        own["attention_factor"] = attention_factor
    values = {
        "model_type": "llama", "num_attention_heads": 2, "hidden_size": 2 * dim, "head_dim": dim,
        "rope_theta": theta, "max_position_embeddings": 8192,
        "rope_scaling": own | {"rope_type": kind} if own else None,
    }  # fmt: skip
    config = config_from_hf(values)
    theirs = LlamaRotaryEmbedding(AutoConfig.for_model(**values))
    ours = rope_frequencies(config, 0)
    # Between its two bounds llama3 takes nearly equal numbers from each other: up to ten bits more.
    np.testing.assert_allclose(ours, theirs.inv_freq.numpy(), rtol=1e-4)
    assert ours.dtype == np.float32
    theirs.inv_freq = torch.from_numpy(ours)
    positions = np.array([0, 1, 7, 1000, 8191])
    found = rope_cos_sin(config, 0, positions)
    # A bit of an angle of 8191 is 0.0005; of 7, a thousandth of that.
    for mine, other in zip(
        found, theirs(torch.zeros(1), torch.tensor(positions[None])), strict=True
    ):
        want = other[0, :, : dim // 2].numpy()
        np.testing.assert_allclose(mine, want, rtol=0, atol=1e-3 * theirs.attention_scaling)
        np.testing.assert_allclose(mine[:3], want[:3], atol=4e-6)


def test_layers_with_a_window_have_a_base_of_their_own_and_no_scaling() -> None:
    values = PUBLISHED["gemma-3-1b"][1] | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    config = config_from_hf(values)
    assert (config.layer_window(4), config.layer_window(5)) == (512, None)
    local, whole = rope_frequencies(config, 4), rope_frequencies(config, 5)
    np.testing.assert_allclose(local[1], 10_000 ** (-2 / 256), rtol=1e-6)
    np.testing.assert_allclose(whole[1], 1e6 ** (-2 / 256) / 8, rtol=1e-6)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "bloom"}, r"is 'bloom'; laplm runs gpt2, llama, mistral, .*, phi3$"),
        ({"model_type": ["llama"]}, r"is \['llama'\]; laplm runs"),
        ({"model_type": "gemma3", "text_config": {}}, "sees pictures too; .* or a GGUF file"),
        ({"model_type": "qwen2_5_vl", "vision_config": {}}, "sees or hears too; take a model of"),
        ({"model_type": "qwen3_moe"}, "a mixture of experts; take one where"),
        ({"model_type": "mixtral", "num_local_experts": 8}, "a mixture of experts"),
        ({"quantization_config": {"quant_method": "awq"}}, r"quantised \('awq'\); .* GGUF file"),
        ({"quantization_config": {"load_in_4bit": True}}, r"quantised \(bitsandbytes\); laplm"),
        ({"quantization_config": {}}, "quantised \\(by no method that it names\\); laplm rounds"),
        (
            {"quantization": {"bits": 4}, "quantization_config": {"bits": 4}},
            r"quantised \(MLX\); laplm rounds",
        ),
        ({"quantization": {"bits": 4, "group_size": 64}}, r"quantised \(MLX\); laplm rounds"),
        ({"hidden_size": 0}, "hidden_size is 0, but it must be a whole number above 0"),
        ({"num_hidden_layers": 10**30}, "num_hidden_layers 10+ is more than any model has"),
        ({"num_key_value_heads": 5}, "num_attention_heads 32 cannot share num_key_value_heads 5"),
        ({"rms_norm_eps": math.nan}, "rms_norm_eps is nan, but it must be a number above 0"),
        ({"rope_theta": 1}, "rope_theta is 1, but it must be a number above 1"),
        ({"rope_theta": math.inf}, "rope_theta is inf"),
        ({"rope_theta": "10000"}, "rope_theta is '10000'"),
        ({"attention_bias": "no"}, "attention_bias is 'no', but it must be true or false"),
        ({"head_dim": 7}, "rotary_dim is 7, but it must be an even number up to head_dim 7"),
        ({"rope_scaling": [8.0]}, r"rope_scaling is \[8.0\], not an object"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, "'dynamic' is not one .*yarn"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "'longrope' is not one"),
        ({"rope_scaling": {"rope_type": ["yarn"]}}, "is not one"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling of type linear lacks factor"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor is 0.0, but it must be"),
        ({"rope_scaling": {"type": "linear", "factor": "8"}}, "rope_scaling cannot be '8'"),
        ({"rope_scaling": LLAMA3 | {"factor": math.nan}}, "factor of rope_scaling cannot be nan"),
        ({"rope_scaling": LLAMA3 | {"high_freq_factor": None}}, "llama3 lacks high_freq_factor"),
        ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1}}, "must be more than low_freq_factor"),
        (
            {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 1.5}},
            "original_max_position_embeddings cannot be 1.5",
        ),
        ({"model_type": "mistral", "sliding_window": -1}, "sliding_window is -1, but"),
        ({"model_type": "qwen2", "layer_types": ["full_attention"]}, "layer_types must be a list"),
        (
            {"model_type": "qwen3", "num_hidden_layers": 1, "layer_types": ["chunked_attention"]},
            "layer_types has 'chunked_attention'; laplm runs full_attention, sliding_attention",
        ),
        ({"model_type": "gemma3_text", "final_logit_softcapping": 30.0}, "logit_softcapping is"),
        ({"model_type": "gemma3_text", "query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0"),
        (
            {"model_type": "gemma3_text", "rope_parameters": {
                "sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "rope_type of sliding_attention is 'linear'",
        ),
        ({"model_type": "gpt_neox", "rotary_pct": 0.1}, "factor 0.1 of 96 components"),
        ({"model_type": "gpt_neox", "rotary_pct": 2.0}, "factor 2 of 96 components"),
        ({"model_type": "smollm3", "no_rope_layers": [1, 0]}, "no_rope_layers is of 2 layers, but"),
        ({"model_type": "smollm3", "no_rope_layers": [2]}, "must be a list of 0 and 1"),
        ({"model_type": "phi3", "rope_scaling": {"type": "longrope"}}, "with the short context"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_one_plain_line(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelFormatError, match=words) as caught:
        config_from_hf({"model_type": "llama"} | values)
    assert str(caught.value).startswith("config.json: ")
    assert "\n" not in str(caught.value)


ODD: Any = st.sampled_from([
    None, True, False, -1, 0, 1, 2, 3, 4, 6, 8, 64, 10**30, 0.0, 0.5, 1.0, 2.5, 1e-30, 1e8, 1e300,
    math.nan, math.inf, -math.inf, "", "4", "silu", [], [1, 0, 1, 1], [True], [None] * 4,
    ["full_attention"] * 4, ["sliding_attention", "full_attention"] * 2, {}, {"factor": 2.0},
    {"rope_type": "default"}, {"rope_theta": 50.0},
])  # fmt: skip
KINDS = st.sampled_from(["default", "linear", "llama3", "yarn"])
ROPE = st.fixed_dictionaries(
    {}, optional={"rope_type": KINDS, "type": KINDS} | dict.fromkeys([
        "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
        "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor", "truncate",
        "rope_theta", "partial_rotary_factor", "sliding_attention", "full_attention",
    ], ODD),
)  # fmt: skip
SETTINGS = sorted({name for _, values in PUBLISHED.values() for name in values} - {"model_type"})


@given(
    st.sampled_from(sorted(FAMILIES)),
    st.dictionaries(st.sampled_from(SETTINGS), ODD, max_size=4),
    st.fixed_dictionaries({}, optional={"rope_scaling": ROPE, "rope_parameters": ROPE}),
)
@settings(max_examples=200, deadline=None)
def test_any_json_is_a_model_or_plainly_refused(
    kind: str, values: dict[str, Any], rope: dict[str, Any]
) -> None:
    try:
        config = config_from_hf({"model_type": kind, "num_hidden_layers": 4} | values | rope)
    except ModelFormatError as error:
        assert str(error).startswith("config.json: ")
        return
    assert config_from_hf(config_to_hf(config)) == config
    if config.positions == "rope" and config.rotary_dim < 10_000:
        for layer in (0, config.n_layer - 1):
            assert np.isfinite(rope_frequencies(config, layer)).all()
            assert 0 < config.attention_scale(layer) < np.inf


@settings(deadline=None, max_examples=12)
@given(st.data())
def test_llamas_of_any_shape_are_run_as_transformers_runs_them(data: st.DataObject) -> None:
    kv_heads, shared, half = (data.draw(st.integers(1, most)) for most in (3, 3, 5))
    heads = kv_heads * shared
    values = {
        "hidden_size": heads * data.draw(st.integers(1, 6)), "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": 2 * half, "num_hidden_layers": 2,
        "intermediate_size": data.draw(st.integers(1, 20)), "vocab_size": 11,
        "max_position_embeddings": 32, "rope_theta": data.draw(st.floats(2, 1e6)),
        "rms_norm_eps": data.draw(st.sampled_from([1e-6, 1e-5, 1e-2])),
    }  # fmt: skip
    for switch in ("tie_word_embeddings", "attention_bias", "mlp_bias"):
        values[switch] = data.draw(st.booleans())
    theirs = AutoModelForCausalLM.from_config(LlamaConfig(**values)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        ids = data.draw(st.lists(st.integers(0, 10), min_size=1, max_size=12))
        want = theirs(torch.tensor([ids])).logits[0].numpy()
    config = config_from_hf(theirs.config.to_dict())
    state = {name.removeprefix("model."): t.numpy() for name, t in theirs.state_dict().items()}
    weights = DenseWeights({name: state[name] for name in tensor_specs(config)}, config)
    np.testing.assert_allclose(forward(np.array(ids), weights, config), want, rtol=1e-4, atol=1e-4)


# --- the config itself --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"window": (3,)}, "window is .*, but it must be an entry for each of the 2 layers"),
        ({"window": (3, 0)}, "window is .* a whole number above 0 or null"),
        ({"window": [None, None]}, "window is"),
        ({"rope_layers": (True, 1)}, "rope_layers is .* true or false"),
        ({"rotary_dim": 6, "positions": "rope"}, "rotary_dim is 6, but .* up to head_dim 4"),
        ({"rotary_dim": -2}, "rotary_dim is -2"),
        ({"embed_scale": math.inf}, "embed_scale is inf"),
        ({"embed_scale": None}, "embed_scale is None"),
        ({"attn_scale": 0.0}, "attn_scale is 0.0"),
        ({"norm_offset": math.nan}, "norm_offset is nan"),
        ({"rope_local_theta": 0.5}, "rope_local_theta is 0.5"),
        ({"rope_scaling": {"factor": 2.0}}, "rope_scaling is .* an object"),
        ({"post_norms": 1}, "post_norms is 1, but it must be true or false"),
    ],
)
def test_impossible_fields_are_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelFormatError, match=words):
        ModelConfig(n_embd=8, n_head=2, n_layer=2, **fields)


def test_entries_that_say_the_usual_are_none() -> None:
    config = ModelConfig(n_layer=2, window=(None, None), rope_layers=(True, True))
    assert (config.window, config.rope_layers) == ((), ())
    assert config == ModelConfig(n_layer=2)
    assert ModelConfig(attn_scale=0.5).attention_scale(3) == 0.5


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "ntk"}, "rope_type 'ntk' is not one"),
        ({"kind": "linear", "factor": math.nan}, "factor is nan"),
        ({"kind": "yarn", "original_n_ctx": 0}, "original_n_ctx is 0"),
        ({"kind": "yarn", "truncate": None}, "truncate is None"),
        ({"kind": "yarn", "attention_factor": 1e30}, "attention_factor is 1e\\+30"),
    ],
)
def test_impossible_scalings_are_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelFormatError, match=words):
        RopeScaling(**fields)
