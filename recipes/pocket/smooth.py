"""Even out what goes into the feed-forwards, so that rounding it to bytes costs less.

The engine rounds the inputs of a linear layer in groups of 32 with one scale each, so a channel
that is much larger than its neighbours takes their precision away. Dividing a norm's gain and shift
by a number for each channel, and multiplying the weights that read the channel by the same, changes
nothing but these sizes (Xiao et al. 2023, "SmoothQuant", section 4, with alpha 0.25).

Only the norms before the feed-forwards, and by less than the source's 0.5: more of it made int4
worse, whose groups of weights share a scale across the same channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from laplm.tune.models.gpt2 import Block, TorchGPT
from recipes.pocket.token_data import TokenData

ALPHA = 0.25
_WINDOWS = 64


def smooth(model: TorchGPT, data: TokenData) -> None:
    """Change a model's weights so that it computes the same from evener inputs.

    Args:
        model: changed in place.
        data: text from which the sizes of the channels are taken.
    """
    blocks = [block for block in model.h if isinstance(block, Block)]
    for block, size in zip(blocks, _channel_sizes(model, blocks, data), strict=True):
        scale = (size / size.log().mean().exp()) ** ALPHA
        with torch.no_grad():
            block.ln_2.weight /= scale
            block.ln_2.bias /= scale
            block.mlp.c_fc.weight *= scale[:, None]


def _channel_sizes(model: TorchGPT, blocks: list[Block], data: TokenData) -> list[Tensor]:
    """The root mean square of each channel of each block's second norm, (C,)."""
    squares = [torch.zeros(model.config.n_embd) for _ in blocks]

    def record(layer: int) -> object:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            squares[layer] += output.square().mean(dim=(0, 1))

        return hook

    hooks = [block.ln_2.register_forward_hook(record(i)) for i, block in enumerate(blocks)]
    windows = data.windows(model.config.n_ctx, seed=0)
    try:
        with torch.no_grad():
            for number in range(min(_WINDOWS, len(windows))):
                model.hidden(torch.from_numpy(windows.batch(number, 1).inputs))
    finally:
        for hook in hooks:
            hook.remove()
    return [square.sqrt().clamp(min=1e-6) for square in squares]
