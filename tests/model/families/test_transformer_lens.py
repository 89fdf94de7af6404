"""Activations beside TransformerLens's cache of the same weights, nothing folded or centred."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_families_against_transformers import CASES, IDS
from transformers import AutoConfig, AutoModelForCausalLM

import laplm
from laplm.model import activations
from laplm.model.files.checkpoint import open_checkpoint
from laplm.model.reference import DenseWeights, forward


# Between them: a gate, norms on q and k and after sublayers, windows, parallel residuals.
@pytest.mark.parametrize(
    "kind",
    ["llama", "mistral", "qwen2", "qwen3", "gemma3_text", "gpt_neox", "smollm3", "phi3"],
)
def test_every_name_of_ours_is_the_same_array_there(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **CASES[kind], attn_implementation="eager")
    ).eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    hf.save_pretrained(tmp_path)
    from transformer_lens import model_bridge as bridge  # seconds, which others need not wait

    # The bridge wants a tokenizer, whichever.
    pocket = Path(laplm.__file__).parent / "pocket"
    for file in pocket.glob("tokenizer*.json"):
        shutil.copy(file, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    config = checkpoint.config
    weights = DenseWeights({n: checkpoint.tensor(n) for n in checkpoint.names}, config)
    ours = activations.run_with_cache(
        lambda tap: forward(IDS, weights, config, tap=tap), config, IDS
    ).by_hook_name()
    model: Any = bridge.TransformerBridge.boot_transformers(
        str(tmp_path), hf_model=hf, device="cpu"
    )
    model.enable_compatibility_mode(no_processing=True)
    with torch.no_grad():
        theirs = model.run_with_cache(torch.tensor(IDS[None]))[1]
    for hook, array in ours.items():
        if kind in ("gpt_neox", "phi3") and "hook_rot_" in hook:
            continue  # it has none where q, k and v are one matrix
        want = theirs[hook][0].numpy()
        if "_norm" in hook and ".attn." in hook and want.shape != array.shape:
            want = want.swapaxes(0, 1)  # it has heads before positions here
        np.testing.assert_allclose(array, want, rtol=1e-4, atol=1e-3, err_msg=hook)
