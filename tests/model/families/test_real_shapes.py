"""Each family at the shape of a model that people have, with random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from published import PUBLISHED
from transformers import AutoConfig, AutoModelForCausalLM

from laplm.model.families import FAMILIES, config_from_hf, family_of, tensor_specs
from laplm.model.reference import DenseWeights, forward
from laplm.model.weights import DenseKVCache

# Of the large ones a few layers: with and without a window, and with and without positions.
LAYERS = {
    "SmolLM2-135M": 30, "Llama-3.2-1B": 16, "Mistral-7B-v0.1": 2, "Qwen2.5-0.5B": 24,
    "Qwen3-0.6B": 28, "gemma-3-270m": 18, "pythia-70m": 6, "SmolLM3-3B": 4, "Phi-3-mini-4k": 2,
}  # fmt: skip


def test_every_family_has_a_real_shape() -> None:
    kinds = {PUBLISHED[name][1]["model_type"] for name in LAYERS}
    assert kinds == FAMILIES.keys() - {"gpt2"}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_real_shapes_are_run_as_transformers_runs_them(name: str) -> None:
    values = dict(PUBLISHED[name][1])
    layers = values["num_hidden_layers"] = LAYERS[name]
    for setting in {"layer_types", "no_rope_layers"} & values.keys():
        values[setting] = values[setting][:layers]
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values)).eval()
    config = config_from_hf(values)
    prefix = family_of(config).HF_PREFIX
    state = {key.removeprefix(prefix): t.numpy() for key, t in theirs.state_dict().items()}
    state["embed_out.weight"] = state["lm_head.weight"]  # GPT-NeoX's name for it in files
    weights = DenseWeights({key: state[key] for key in tensor_specs(config)}, config)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, 540)  # beyond Gemma's window
    with torch.no_grad():
        want = theirs(torch.tensor(ids[None]), logits_to_keep=8).logits[0].numpy()
    past = DenseKVCache()
    forward(ids[:-8], weights, config, past, last_only=True)
    got = np.concatenate([forward(ids[i : i + 1], weights, config, past) for i in range(532, 540)])
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)
