"""What a GGUF file's settings say of a model."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import pytest
from gguf_files import llama3_factors

from laplm.errors import ModelFormatError
from laplm.model.config import RopeScaling
from laplm.model.families.gguf import config_from_gguf

LLAMA: dict[str, Any] = {
    "general.architecture": "llama", "llama.context_length": 2048, "llama.embedding_length": 64,
    "llama.block_count": 2, "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2,
    "llama.feed_forward_length": 96, "llama.attention.layer_norm_rms_epsilon": 1e-5,
}  # fmt: skip
SHAPES = {"token_embd.weight": (300, 64)}


def test_numbers_are_the_decimals_that_were_written() -> None:
    stored = float(np.float32(1e-5))
    changed = LLAMA | {
        "llama.attention.layer_norm_rms_epsilon": stored,
        "llama.rope.freq_base": 5e5,
    }
    config = config_from_gguf(changed, SHAPES)
    assert config.norm_eps == 1e-5 != stored
    assert config.rope_theta == 5e5
    assert (config.n_kv_head, config.head_dim, config.vocab_size) == (2, 16, 300)


def test_biases_and_the_output_matrix_are_there_when_their_tensors_are() -> None:
    plain = config_from_gguf(LLAMA, SHAPES)
    assert plain.tied and not (plain.attn_bias or plain.attn_out_bias or plain.mlp_bias)
    names = ("output.weight", "blk.0.attn_q.bias", "blk.0.attn_output.bias", "blk.0.ffn_up.bias")
    config = config_from_gguf(LLAMA, SHAPES | dict.fromkeys(names, (1,)))
    assert not config.tied and config.attn_bias and config.attn_out_bias and config.mlp_bias


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"general.architecture": "bert"},
            "general.architecture is 'bert'; laplm runs gpt2, llama",
        ),
        ({"general.architecture": None}, "general.architecture is None"),
        ({"general.architecture": np.array([1, 2])}, r"general.architecture is array\(\[1, 2\]"),
        ({"general.architecture": "clip"}, r"the part of a model that sees images \(mmproj\)"),
        ({"general.type": "mmproj"}, r"the part of a model that sees images \(mmproj\)"),
        ({"general.type": "adapter"}, "holds a LoRA adapter as GGUF"),
        ({"llama.expert_count": 8}, r"mixture-of-experts model \(8 experts a layer\)"),
        (
            {"general.architecture": "qwen3moe", "qwen3moe.expert_count": 128},
            r"mixture-of-experts model \(128 experts",
        ),
        ({"llama.block_count": None}, "the setting llama.block_count is missing"),
        ({"llama.block_count": 1 << 40}, "llama.block_count 1099511627776 is more than"),
        ({"llama.embedding_length": 66}, "llama.embedding_length 66 cannot be split"),
        ({"llama.attention.head_count": 0}, "llama.attention.head_count is 0, but it must"),
        ({"llama.attention.head_count": "four"}, "head_count is 'four', but it must be a number"),
        ({"llama.rope.scaling.factor": "x"}, "llama.rope.scaling.factor is 'x'"),
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": -1.0}, "factor is -1.0"),
        ({"llama.rope.scaling.type": 4, "llama.rope.scaling.factor": 4.0}, "scaling.type is 4"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "rms_epsilon is nan"),
        ({"llama.attention.head_count_kv": np.array([2, 4])}, "differs from layer to layer"),
        ({"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 4.0}, "'longrope'"),
    ],
)
def test_what_is_not_run_is_refused_in_the_files_own_words(
    changes: dict[str, Any], words: str
) -> None:
    metadata = {key: value for key, value in (LLAMA | changes).items() if value is not None}
    with pytest.raises(ModelFormatError, match=words) as error:
        config_from_gguf(metadata, SHAPES)
    assert "config.json:" not in str(error.value)


@pytest.mark.parametrize("shapes", [{}, {"token_embd.weight": (300,)}])
def test_without_an_embedding_there_is_no_vocabulary(shapes: dict[str, Any]) -> None:
    with pytest.raises(ModelFormatError, match=r"no token_embd\.weight"):
        config_from_gguf(LLAMA, shapes)


def test_as_many_heads_in_every_layer_are_one_number() -> None:
    changed = LLAMA | {"llama.attention.head_count_kv": np.array([2, 2])}
    assert config_from_gguf(changed, SHAPES).n_kv_head == 2


# --- rotary positions ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"scaling.type": "none", "scaling.factor": 4.0}, None),
        ({"scaling.factor": 4.0}, RopeScaling(kind="linear", factor=4.0)),
        ({"scale_linear": 4.0}, RopeScaling(kind="linear", factor=4.0)),
        ({"scaling.type": "linear", "scaling.factor": 8.0}, RopeScaling(kind="linear", factor=8.0)),
        (
            {"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 512},
            # Peng et al. 2023, section 3.4: 0.1 ln(s) + 1
            RopeScaling(kind="yarn", factor=4.0, original_n_ctx=512,
                        attention_factor=0.1 * np.log(4.0) + 1),
        ),
    ],
)  # fmt: skip
def test_rotary_scalings(changes: dict[str, Any], expected: RopeScaling | None) -> None:
    changed = LLAMA | {f"llama.rope.{key}": value for key, value in changes.items()}
    assert config_from_gguf(changed, SHAPES).rope_scaling == expected


def scaled(head_dim: int, theta: float, factor: float, context: int, high: float) -> Any:
    rope = {
        "rope_theta": theta, "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": high,
        "original_max_position_embeddings": context,
    }  # fmt: skip
    return types.SimpleNamespace(head_dim=head_dim, rope_parameters=rope)


@pytest.mark.parametrize(
    ("head_dim", "theta", "factor", "context", "high"),
    [
        (64, 5e5, 32.0, 8192, 4.0),  # Llama 3.2 1B
        (128, 5e5, 32.0, 8192, 4.0),  # Llama 3.2 3B
        (128, 5e5, 8.0, 8192, 4.0),  # Llama 3.1
        (64, 1e4, 8.0, 64, 4.0),
        (128, 1e6, 16.0, 4096, 8.0),
    ],
)
def test_the_settings_of_llama_3_are_found_from_its_factors(
    head_dim: int, theta: float, factor: float, context: int, high: float
) -> None:
    factors = llama3_factors(scaled(head_dim, theta, factor, context, high))
    changed = LLAMA | {"llama.attention.key_length": head_dim, "llama.rope.freq_base": theta}
    config = config_from_gguf(changed, SHAPES, lambda: factors)
    assert config.rope_scaling == RopeScaling(
        kind="llama3", factor=factor, original_n_ctx=context, high_freq_factor=high
    )


@pytest.mark.parametrize(
    "factors", [np.linspace(1, 9, 8), np.zeros(8), np.full(8, np.nan), np.ones(3), np.arange(1, 9)]
)
def test_factors_of_another_kind_are_refused(factors: np.ndarray) -> None:
    with pytest.raises(ModelFormatError, match=r"rope_freqs\.weight"):
        config_from_gguf(LLAMA, SHAPES, lambda: factors.astype(np.float32))


def test_factors_that_are_all_one_scale_nothing() -> None:
    config = config_from_gguf(LLAMA, SHAPES, lambda: np.ones(8, np.float32))
    assert config.rope_scaling is None


# --- tokens -------------------------------------------------------------------------------------


def tokens(**settings: Any) -> dict[str, Any]:
    return {f"tokenizer.ggml.{name}": value for name, value in settings.items()}


def test_every_token_that_ends_a_text_is_found() -> None:
    words = ["<s>", "</s>", "<|im_end|>", "<end_of_turn>", "a", "<|eot_id|>"]
    config = config_from_gguf(
        LLAMA | tokens(
            model="gpt2", tokens=words, token_type=np.array([3, 3, 3, 4, 1, 1]), bos_token_id=0,
            eos_token_id=4, padding_token_id=1,
        ),
        SHAPES,
    )  # fmt: skip
    assert config.eos_token_ids == (4, 1, 2, 3)  # an ordinary token of that text ends nothing
    assert (config.bos_token_id, config.pad_token_id) == (0, 1)


def test_ids_beyond_the_vocabulary_are_none() -> None:
    config = config_from_gguf(
        LLAMA | tokens(model="gpt2", eos_token_id=300, bos_token_id=1 << 31, eot_token_id="x"),
        SHAPES,
    )
    assert (config.bos_token_id, config.eos_token_ids, config.pad_token_id) == (None, (), None)


def test_sentencepiece_has_usual_ids() -> None:
    config = config_from_gguf(LLAMA | tokens(model="llama"), SHAPES)
    assert (config.bos_token_id, config.eos_token_ids) == (1, (2,))
