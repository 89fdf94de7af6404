"""Every activation of a GPT-2 in transformers, by our names: the oracle of all looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

Key = tuple[str, int | None]


def hf_activations(model: Any, ids: Sequence[int]) -> dict[Key, np.ndarray]:
    """Run a ``GPT2LMHeadModel`` with eager attention over ``ids`` and note what its modules do.

    Scores are the one thing that no module gives: they are worked out, with the model's own mask
    and scale, from its queries and keys.
    """
    config = model.config
    n_layer, heads = config.n_layer, (config.n_head, config.n_embd // config.n_head)
    kept: dict[Key, torch.Tensor] = {}
    hooks: list[Any] = []

    def watch(module: Any, see: Callable[[torch.Tensor, torch.Tensor], None]) -> None:
        def hook(_module: Any, inputs: Any, output: Any) -> None:
            see(inputs[0].detach(), (output[0] if isinstance(output, tuple) else output).detach())

        hooks.append(module.register_forward_hook(hook))

    def watch_norm(name: str, layer: int | None, module: Any) -> None:
        def see(x: torch.Tensor, out: torch.Tensor) -> None:
            variance = x.var(-1, keepdim=True, unbiased=False)
            kept[f"{name}_scale", layer] = (variance + module.eps).sqrt()
            kept[f"{name}_normalized", layer] = functional.layer_norm(
                x, x.shape[-1:], eps=module.eps
            )
            kept[name, layer] = out

        watch(module, see)

    def watch_block(i: int, block: Any) -> None:
        def see_qkv(_: torch.Tensor, out: torch.Tensor) -> None:
            for name, part in zip("qkv", out.split(config.n_embd, dim=-1), strict=True):
                kept[name, i] = part.unflatten(-1, heads)

        def see_projection(x: torch.Tensor, out: torch.Tensor) -> None:
            kept["z", i], kept["attn_out", i] = x.unflatten(-1, heads), out

        watch(block, lambda x, out: kept.update({("resid_pre", i): x, ("resid_post", i): out}))
        watch(block.ln_2, lambda x, _: kept.update({("resid_mid", i): x}))
        watch_norm("ln1", i, block.ln_1)
        watch_norm("ln2", i, block.ln_2)
        watch(block.attn.c_attn, see_qkv)
        watch(block.attn.c_proj, see_projection)
        watch(block.mlp.c_fc, lambda _, out: kept.update({("mlp_pre", i): out}))
        watch(
            block.mlp.c_proj,
            lambda x, out: kept.update({("mlp_post", i): x, ("mlp_out", i): out}),
        )

    watch(model.transformer.wte, lambda _, out: kept.update({("embed", None): out}))
    watch(model.transformer.wpe, lambda _, out: kept.update({("pos_embed", None): out}))
    for i, block in enumerate(model.transformer.h):
        watch_block(i, block)
    watch_norm("ln_final", None, model.transformer.ln_f)
    try:
        with torch.no_grad():
            out = model(torch.tensor([list(ids)]), output_attentions=True)
    finally:
        for hook in hooks:
            hook.remove()
    kept["logits", None] = out.logits
    future = torch.ones(len(ids), len(ids), dtype=torch.bool).triu(1)
    for i in range(n_layer):
        kept["pattern", i] = out.attentions[i]
        q, k = (kept[name, i].transpose(-3, -2) for name in "qk")
        scores = q @ k.transpose(-1, -2) * model.transformer.h[i].attn.scaling
        kept["attn_scores", i] = scores.masked_fill(future, -torch.inf)
    return {key: tensor[0].numpy() for key, tensor in kept.items()}
