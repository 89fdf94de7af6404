"""LoRA adapters of PEFT on every family: merged, they compute what the running PEFT model does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_families_against_transformers import CASES
from transformers import AutoConfig, AutoModelForCausalLM

from laplm.model.files.adapter import open_adapter
from laplm.model.files.checkpoint import open_checkpoint
from laplm.model.reference import DenseWeights, forward

IDS = np.random.default_rng(2).integers(0, 97, 20)
SEPARATE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TARGETS = {
    "gpt_neox": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
}


@pytest.mark.parametrize(
    "family", ["llama", "mistral", "qwen2", "qwen3", "gemma3_text", "gpt_neox", "smollm3", "phi3"]
)
def test_an_adapter_of_every_matrix_is_merged_as_peft_runs_it(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **CASES[family], attn_implementation="eager")
    base = AutoModelForCausalLM.from_config(config)
    base.save_pretrained(tmp_path / "base")
    lora = LoraConfig(
        r=3, lora_alpha=5, target_modules=TARGETS.get(family, SEPARATE), task_type="CAUSAL_LM",
        init_lora_weights=False,
    )  # fmt: skip
    theirs = get_peft_model(base, lora).eval()
    theirs.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    theirs.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        want = theirs(torch.tensor(IDS[None])).logits[0].numpy()
        with theirs.disable_adapter():
            without = theirs(torch.tensor(IDS[None])).logits[0].numpy()
    checkpoint = open_adapter(tmp_path / "adapter", open_checkpoint(tmp_path / "base"))
    tensors = {name: checkpoint.tensor(name) for name in checkpoint.names}
    got = forward(IDS, DenseWeights(tensors, checkpoint.config), checkpoint.config)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * max(1, np.abs(want).max()))
    assert np.abs(want - without).max() > 0.01
