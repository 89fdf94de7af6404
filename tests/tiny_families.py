"""A tiny model of every family, with random weights, as transformers writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from any_view import TEMPLATE
from conftest import make_tokenizer_json
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_inner": 48},
    "llama": {"num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 4},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "gemma3_text": {"num_key_value_heads": 1, "head_dim": 16, "sliding_window": 4,
                    "layer_types": ["sliding_attention", "full_attention"]},
    "gpt_neox": {"rotary_pct": 0.5},
    "smollm3": {"num_key_value_heads": 2, "no_rope_layers": [1, 0]},
    "phi3": {"num_key_value_heads": 2},
}  # fmt: skip


def make_family(family: str, path: Path, **sizes: Any) -> Any:
    """Write the tiny model of a family into a directory; gives transformers' own of it."""
    path.mkdir()
    make_tokenizer_json(path)
    (path / "chat_template.jinja").write_text(TEMPLATE)
    n = Tokenizer.from_file(str(path / "tokenizer.json")).get_vocab_size()
    torch.manual_seed(0)
    ends = {"vocab_size": n, "eos_token_id": n - 1, "pad_token_id": n - 1, "bos_token_id": n - 1}
    values = SIZES | FAMILIES[family] | ends | sizes
    config = AutoConfig.for_model(family, **values, attn_implementation="eager")
    hf = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    hf.save_pretrained(path)
    return hf.eval()
