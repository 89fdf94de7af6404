"""LoRA adapters of PEFT on every family: merged, they compute what the running PEFT model does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf_files import byte_tokens, make_hf_model, matrices_as, write_gguf
from peft import LoraConfig, get_peft_model
from test_families_against_transformers import CASES
from transformers import AutoConfig, AutoModelForCausalLM

from laplm.model.engine.matrices import matrices
from laplm.model.files.adapter import open_adapter
from laplm.model.files.checkpoint import open_checkpoint
from laplm.model.pretrained_settings import PretrainedSettings
from laplm.model.reference import DenseWeights, forward
from laplm.run.language_model import LanguageModel

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


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0", "F16"])
def test_an_adapter_on_a_gguf_file_is_merged_as_peft_runs_it(
    name: str, kind: str, tmp_path: Path
) -> None:
    sizes = {"n_positions": 1024} if name == "gpt2" else {}  # which transformers does not read
    tokens = byte_tokens(300) | {"chat_template": "{{ messages }}"}
    file = write_gguf(
        tmp_path / "base.gguf", make_hf_model(name, **sizes), matrices_as(kind), tokens
    )
    base = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32)
    targets = ["attn.c_attn", "mlp.c_fc"] if name == "gpt2" else ["q_proj", "up_proj"]
    lora = LoraConfig(r=3, lora_alpha=5, target_modules=targets, init_lora_weights=False)
    theirs = get_peft_model(base, lora).eval()
    adapter = tmp_path / "adapter"
    theirs.save_pretrained(adapter)
    values = json.loads((adapter / "adapter_config.json").read_text())
    values["base_model_name_or_path"] = "../base.gguf"
    (adapter / "adapter_config.json").write_text(json.dumps(values))
    with torch.no_grad():
        want = theirs(torch.tensor(IDS[None])).logits[0].numpy()
        with theirs.disable_adapter():
            without = theirs(torch.tensor(IDS[None])).logits[0].numpy()

    lm = LanguageModel(adapter, "fp32", threads=1)
    np.testing.assert_allclose(lm.gpt.forward(IDS), want, rtol=0, atol=1e-4 * np.abs(want).max())
    assert np.abs(want - without).max() > 0.01
    assert lm.tokenizer.encode("sea") == LanguageModel(file).tokenizer.encode("sea")
    assert lm.settings.chat_templates == {"default": "{{ messages }}"} and lm.chat_template
    (adapter / "chat_template.jinja").write_text("{{ 'its own' }}")
    for settings in (
        LanguageModel(adapter, "fp32").settings,
        PretrainedSettings.from_directories(adapter, file, lm.tokenizer),
    ):
        assert settings.chat_templates == {"default": "{{ 'its own' }}"}

    # Where the base is rounded what changes has eight bits, and all else stays as it is stored.
    lm = LanguageModel(adapter, "stored", threads=1)
    changed, kept = {"Q4_1": ("q8_0", "q4_1"), "Q8_0": ("q8_0", "q8_0"), "F16": ("fp32", "fp16")}[
        kind
    ]
    forms = {matrix.name: matrix.form.name for matrix in matrices(lm.checkpoint, "stored")}
    places = {"llama": ("q_proj", "gate_up"), "gpt2": ("c_attn", "c_fc")}[name]
    for matrix, form in forms.items():
        assert form == (changed if any(place in matrix for place in places) else kept), forms
    error = np.abs(lm.gpt.forward(IDS) - want).mean()
    assert error < 0.05 * want.std()
    assert LanguageModel(adapter).precision == ("int8" if kind == "F16" else "stored")
