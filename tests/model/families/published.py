"""``config.json`` of models that people have, as they were published."""

from __future__ import annotations

from typing import Any


def sizes(
    kind: str, width: int, inner: int, layers: int, heads: int, positions: int, vocabulary: int,
    **more: Any,
) -> dict[str, Any]:  # fmt: skip
    return {
        "model_type": kind, "hidden_size": width, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": heads,
        "max_position_embeddings": positions, "vocab_size": vocabulary,
    } | more  # fmt: skip


LLAMA3 = {
    "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192, "rope_type": "llama3",
}  # fmt: skip
GEMMA = {
    "num_key_value_heads": 1, "head_dim": 256, "query_pre_attn_scalar": 256, "rope_theta": 1e6,
    "rope_local_base_freq": 10000.0, "sliding_window": 512, "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh", "rope_scaling": None, "eos_token_id": [1, 106],
    "bos_token_id": 2, "pad_token_id": 0, "attention_bias": False, "cache_implementation": "hybrid",
}  # fmt: skip
# With the number of parameters that their pages on the hub name.
PUBLISHED: dict[str, tuple[int, dict[str, Any]]] = {
    "SmolLM2-135M": (134_515_008, sizes(
        "llama", 576, 1536, 30, 9, 8192, 49152, num_key_value_heads=3, rope_theta=100000,
        rms_norm_eps=1e-5, tie_word_embeddings=True, rope_scaling=None, rope_interleaved=False,
        bos_token_id=0, eos_token_id=0,
    )),
    "TinyLlama-1.1B": (1_100_048_384, sizes(
        "llama", 2048, 5632, 22, 32, 2048, 32000, num_key_value_heads=4, rms_norm_eps=1e-5,
        rope_scaling=None, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
    )),
    "Llama-2-7b": (6_738_415_616, sizes(
        "llama", 4096, 11008, 32, 32, 4096, 32000, rms_norm_eps=1e-5, tie_word_embeddings=False,
        bos_token_id=1, eos_token_id=2,
    )),
    "Llama-3.2-1B": (1_235_814_400, sizes(
        "llama", 2048, 8192, 16, 32, 131072, 128256, num_key_value_heads=8, head_dim=64,
        rope_theta=500000.0, rope_scaling=LLAMA3, rms_norm_eps=1e-5, tie_word_embeddings=True,
        attention_bias=False, mlp_bias=False, bos_token_id=128000, eos_token_id=128001,
    )),
    "Mistral-7B-v0.1": (7_241_732_096, sizes(
        "mistral", 4096, 14336, 32, 32, 32768, 32000, num_key_value_heads=8, rope_theta=10000.0,
        sliding_window=4096, rms_norm_eps=1e-5, tie_word_embeddings=False, bos_token_id=1,
        eos_token_id=2,
    )),
    "Mistral-7B-v0.3": (7_248_023_552, sizes(
        "mistral", 4096, 14336, 32, 32, 32768, 32768, num_key_value_heads=8, rope_theta=1e6,
        sliding_window=None, rms_norm_eps=1e-5, tie_word_embeddings=False, bos_token_id=1,
        eos_token_id=2,
    )),
    "Qwen2.5-0.5B": (494_032_768, sizes(
        "qwen2", 896, 4864, 24, 14, 32768, 151936, num_key_value_heads=2, rope_theta=1e6,
        rms_norm_eps=1e-6, sliding_window=32768, max_window_layers=24, use_sliding_window=False,
        use_mrope=False, tie_word_embeddings=True, bos_token_id=151643, eos_token_id=151643,
    )),
    "Qwen3-0.6B": (596_049_920, sizes(
        "qwen3", 1024, 3072, 28, 16, 40960, 151936, num_key_value_heads=8, head_dim=128,
        rope_theta=1000000, rope_scaling=None, rms_norm_eps=1e-6, sliding_window=None,
        max_window_layers=28, use_sliding_window=False, tie_word_embeddings=True,
        attention_bias=False, bos_token_id=151643, eos_token_id=151645,
    )),
    "gemma-3-270m": (268_098_176, sizes(
        "gemma3_text", 640, 2048, 18, 4, 32768, 262144, **GEMMA, attn_logit_softcapping=None,
        use_bidirectional_attention=False, final_logit_softcapping=None, _sliding_window_pattern=6,
        layer_types=(["sliding_attention"] * 5 + ["full_attention"]) * 3,
    )),
    "gemma-3-1b": (999_885_952, sizes(
        "gemma3_text", 1152, 6912, 26, 4, 32768, 262144, **GEMMA, sliding_window_pattern=6,
    )),
    "pythia-70m": (70_426_624, sizes(
        "gpt_neox", 512, 2048, 6, 8, 2048, 50304, rotary_pct=0.25, rotary_emb_base=10000,
        layer_norm_eps=1e-5, use_parallel_residual=True, tie_word_embeddings=False,
        hidden_act="gelu", bos_token_id=0, eos_token_id=0,
    )),
    "SmolLM3-3B": (3_075_098_624, sizes(
        "smollm3", 2048, 11008, 36, 16, 65536, 128256, num_key_value_heads=4, rope_theta=5e6,
        rope_scaling=None, rms_norm_eps=1e-6, no_rope_layer_interval=4, use_sliding_window=False,
        no_rope_layers=[1, 1, 1, 0] * 9, layer_types=["full_attention"] * 36, sliding_window=None,
        attention_bias=False, mlp_bias=False, pad_token_id=128004, bos_token_id=128000,
        eos_token_id=128012,
    )),
    "Phi-3-mini-4k": (3_821_079_552, sizes(
        "phi3", 3072, 8192, 32, 32, 4096, 32064, num_key_value_heads=32, rope_theta=10000.0,
        rope_scaling=None, original_max_position_embeddings=4096, sliding_window=2047,
        rms_norm_eps=1e-5, tie_word_embeddings=False, attention_bias=False, bos_token_id=1,
        eos_token_id=32000, pad_token_id=32000,
    )),
    "Phi-4-mini-4k": (3_836_021_760, sizes(
        "phi3", 3072, 8192, 32, 24, 4096, 200064, num_key_value_heads=8, sliding_window=262144,
        partial_rotary_factor=0.75, rms_norm_eps=1e-5, tie_word_embeddings=True,
        bos_token_id=199999, eos_token_id=199999, pad_token_id=199999,
    )),
}  # fmt: skip
