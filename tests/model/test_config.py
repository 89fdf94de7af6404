from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.models.llama.modeling_llama import repeat_kv

from laplm.errors import ModelFormatError
from laplm.model.config import NAMED_SIZES, ModelConfig
from laplm.model.families import config_from_hf, config_to_hf, tensor_shapes

FIELDS = [field.name for field in dataclasses.fields(ModelConfig)]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=3,
)


@given(st.dictionaries(st.sampled_from([*FIELDS, "n_positions", "model_type"]), json_values))
@settings(max_examples=300, deadline=None)
def test_any_json_is_a_model_or_plainly_refused(values: dict[str, object]) -> None:
    try:
        config = config_from_hf(values)
    except ModelFormatError as error:
        assert str(error).startswith("config.json: ")
    else:
        assert config.n_embd % config.n_head == 0
        assert config.eos_token_id is None or config.eos_token_id < config.vocab_size
        assert config_from_hf(config_to_hf(config)) == config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"n_layer": 10**30}, "n_layer 10+ is more than any model has"),
        ({"vocab_size": True}, "vocab_size is True"),
        ({"n_embd": "768"}, "n_embd is '768'"),
        ({"n_positions": 0}, "n_positions is 0"),
        ({"layer_norm_epsilon": 0}, "layer_norm_epsilon is 0"),
        ({"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon is '1e-5'"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon is nan"),
        ({"scale_attn_weights": "no"}, "scale_attn_weights is 'no'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1"),
        ({"activation_function": ["gelu"]}, "is not one of"),
        ({"model_type": "gpt_neo"}, "model_type is 'gpt_neo'"),
    ],
)
def test_impossible_settings_are_named(values: dict[str, object], words: str) -> None:
    with pytest.raises(ModelFormatError, match=words):
        config_from_hf(values)


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3,
         "max_position_embeddings": 8},
        {"n_embd": 24, "hidden_size": 12, "n_layer": 1, "num_hidden_layers": 2, "n_head": 3},
        {"num_attention_heads": 6, "n_head": 3, "n_embd": 12, "max_position_embeddings": 7,
         "n_positions": 9, "n_ctx": 10, "intermediate_size": 5, "num_heads": 2},
    ],
)  # fmt: skip
def test_names_that_all_models_share_are_taken_as_transformers_takes_them(
    values: dict[str, int],
) -> None:
    theirs, ours = GPT2Config.from_dict(dict(values)), config_from_hf(values)
    assert (ours.n_embd, ours.n_layer, ours.n_head) == (
        theirs.n_embd,
        theirs.n_layer,
        theirs.n_head,
    )
    assert ours.n_ctx == theirs.n_positions
    assert ours.n_inner == (theirs.n_inner or 4 * theirs.n_embd)


def test_end_token_that_the_vocabulary_does_not_have_is_none() -> None:
    assert config_from_hf({"vocab_size": 65}).eos_token_id is None
    assert config_from_hf({"eos_token_id": [3, 4]}).eos_token_id == 3
    assert config_from_hf({}).eos_token_id == 50256


@pytest.mark.parametrize(
    ("values", "generation", "eos", "bos", "pad"),
    [
        ({}, None, (50256,), 50256, None),
        ({"eos_token_id": [3, 4], "bos_token_id": 5, "pad_token_id": 6}, None, (3, 4), 5, 6),
        ({"eos_token_id": 3, "bos_token_id": 5}, {"eos_token_id": [4, 3]}, (3, 4), 5, None),
        ({"eos_token_id": 3}, {"bos_token_id": 7, "pad_token_id": 8}, (3,), 7, 8),
        ({"eos_token_id": None, "bos_token_id": None}, {"eos_token_id": 4}, (4,), None, None),
        ({"eos_token_id": [3, True, "x", None, 10**9, -1, 3]}, None, (3,), 50256, None),
        ({"eos_token_id": 3.0, "bos_token_id": True, "pad_token_id": "1"}, {}, (), None, None),
    ],
)
def test_tokens_that_begin_and_end_texts_are_those_of_both_files(
    values: dict[str, object],
    generation: dict[str, object] | None,
    eos: tuple[int, ...],
    bos: int | None,
    pad: int | None,
) -> None:
    config = config_from_hf(values, generation)
    assert (config.eos_token_ids, config.bos_token_id, config.pad_token_id) == (eos, bos, pad)
    written = GPT2Config.from_dict(config_to_hf(config))
    ends = written.eos_token_id
    assert (ends if isinstance(ends, list) else [ends]) == [*eos, *[None] * (not eos)]
    assert (written.bos_token_id, written.pad_token_id) == (bos, pad)


@pytest.mark.parametrize("values", [{}, {"n_inner": 100}, {"tie_word_embeddings": False}])
def test_shapes_are_those_of_transformers(values: dict[str, object]) -> None:
    theirs = GPT2Config(vocab_size=50, n_positions=8, n_embd=12, n_layer=2, n_head=3, **values)
    state = GPT2LMHeadModel(theirs).state_dict()
    if theirs.tie_word_embeddings:
        del state["lm_head.weight"]
    config = config_from_hf(theirs.to_dict())
    assert tensor_shapes(config) == {
        name.removeprefix("transformer."): tuple(tensor.shape) for name, tensor in state.items()
    }
    assert config.n_parameters == sum(tensor.numel() for tensor in state.values())


def test_named_sizes_have_the_published_numbers_of_parameters() -> None:
    millions = {name: round(config.n_parameters / 1e6) for name, config in NAMED_SIZES.items()}
    assert millions == {
        "gpt2": 124, "distilgpt2": 82, "gpt2-medium": 355, "gpt2-large": 774, "gpt2-xl": 1558,
    }  # fmt: skip


def test_which_key_head_a_query_head_reads_is_as_in_transformers() -> None:
    config = ModelConfig(n_head=12, n_kv_head=4)
    repeated = repeat_kv(torch.arange(4).view(1, 4, 1, 1), config.n_head_per_kv_head)
    assert [config.kv_head_of(head) for head in range(12)] == repeated.flatten().tolist()
    assert ModelConfig().n_head_per_kv_head == 1
