"""How much memory a training takes: counted before it starts.

Weights, gradients and the optimiser's moments follow from the number of parameters. What the
backward pass needs of the forward pass is counted on a small batch, and grows with the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from laplm.errors import MissingExtraError
from laplm.machine import resident_bytes
from laplm.tune.data.corpus import Batch
from laplm.tune.kernels.pointwise import cross_entropy_grad_bytes
from laplm.tune.models.gpt2 import TorchGPT

try:
    import torch
except ModuleNotFoundError as error:
    raise MissingExtraError("Training a model", "tune") from error

_LOSS_CHUNK = 1024  # tokens whose logits exist at one time (loss.py)
_ALLOCATOR = 1.1  # what a C library keeps beside what is asked of it, as measured here


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a training takes at its peak.

    Attributes:
        process: what the process held before, libraries and data included.
        weights: of the model, in the formats they have.
        gradients: of what is trained.
        optimizer: its moments, and what rounding took from the weights.
        activations: what the backward pass needs of the forward pass, for one batch.
        logits: of one chunk of the loss, with its gradient.
    """

    process: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All together."""
        made = self.weights + self.gradients + self.optimizer + self.activations + self.logits
        return self.process + round(_ALLOCATOR * made)


def estimate_memory(
    model: TorchGPT, *, batch_size: int, n_positions: int, grad_accum_steps: int = 1
) -> MemoryEstimate:
    """What a training of ``model`` with AdamW takes; a small forward pass is run to count it.

    Args:
        model: as it is trained: with its adapters and number formats.
        batch_size: windows of one forward pass.
        n_positions: tokens of a window.
        grad_accum_steps: gradients of several passes are summed in fp32.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    n_trained = sum(p.numel() for p in trained)
    held = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    size = max((p.element_size() for p in trained), default=4)  # 2 in bfloat16
    master_low = sum(t.numel() * t.element_size() for t in model.master_low.values())
    tokens = batch_size * n_positions
    chunk = min(tokens, _LOSS_CHUNK)
    vocab, output = model.config.vocab_size, model.output_weight
    # The output matrix has a gradient from the loss, and while an embedding is tied to it a second.
    output_gradients = 2 * output.numel() * size if output.requires_grad else 0
    return MemoryEstimate(
        process=max(0, resident_bytes() - held - master_low),
        weights=held,
        gradients=n_trained * (size + (4 if size == 2 and grad_accum_steps > 1 else 0)),
        optimizer=n_trained * (8 if size == 4 else 6),
        activations=_activation_bytes(model, batch_size, n_positions),
        # One chunk in the format of the weights, whose place their gradient takes.
        logits=chunk * vocab * output.element_size()
        + cross_entropy_grad_bytes(output)
        + output_gradients,
    )


def _activation_bytes(model: TorchGPT, batch_size: int, n_positions: int) -> int:
    """Bytes that autograd keeps for one batch: counted at two lengths, and drawn on as a line."""
    short = max(1, min(16, n_positions // 4))
    counts = [_kept(model, n) for n in (short, 2 * short)]
    per_token = (counts[1] - counts[0]) / short
    fixed = counts[0] - per_token * short
    return round(max(0.0, fixed) + per_token * batch_size * n_positions)


def _kept(model: TorchGPT, n_tokens: int) -> int:
    """Bytes that autograd keeps for one window of so many tokens, weights left out."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    seen: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    device = next(model.parameters()).device
    batch = Batch(np.zeros((1, n_tokens), np.int64), np.zeros((1, n_tokens), np.int64))
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        hidden = model.hidden(torch.from_numpy(batch.inputs).to(device))
    kept = sum(seen.values())
    del hidden
    return kept
