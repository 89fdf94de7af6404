"""Muon: momentum whose steps are made orthogonal, for the matrices inside the layers.

Jordan et al. 2024, <https://kellerjordan.github.io/posts/muon/>. Torch has one of its own, but it
always multiplies in bfloat16, which a CPU without such instructions emulates at a small part of its
fp32 speed, and it takes joined queries, keys, values for one matrix. Here the number format is an
argument, and each of GPT-2's joined query, key and value matrices is made orthogonal by itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from laplm.errors import MissingExtraError

try:
    import torch
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    raise MissingExtraError("Training a model", "tune") from error

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration: steepest at zero, not exact (Jordan et al. 2024)."""


class Muon(torch.optim.Optimizer):
    """Update matrices by the orthogonal factor of their momentum.

    A step is scaled to the size that AdamW's have, 0.2 * sqrt(max(rows, columns)) (Liu et al.
    2025, arXiv:2502.16982, section 2.2), so both take the same learning rate and weight decay.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        steps: int = 5,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Take matrices, (inputs, outputs) each; one three times as wide as high is split in three.

        Args:
            parameters: two-dimensional; embeddings and the output matrix belong to AdamW.
            lr: learning rate.
            weight_decay: decoupled, as AdamW's.
            momentum: share of the old momentum in the new.
            steps: Newton-Schulz iterations.
            dtype: what the iterations are computed in; bfloat16 serves as well as fp32, and is
                faster where the hardware multiplies it.
        """
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "steps": steps}
        super().__init__(parameters, defaults)
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every matrix that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum: Tensor = state["momentum"]
                momentum.lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(momentum, group["momentum"])  # Nesterov's
                rows, columns = parameter.shape
                parts = update.split(rows, dim=1) if columns == 3 * rows else (update,)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                scale = 0.2 * max(parts[0].shape) ** 0.5
                orthogonal = torch.cat(
                    [orthogonalise(part.to(self._dtype), group["steps"]) for part in parts], 1
                )
                parameter.add_(orthogonal.to(parameter.dtype), alpha=-group["lr"] * scale)


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """A matrix near U V^T, where U S V^T is the singular value decomposition of ``matrix``.

    Its singular values lie between about 0.7 and 1.2, which serves training as well as 1 would.

    Args:
        matrix: (rows, columns).
        steps: Newton-Schulz iterations.

    Returns:
        (rows, columns).
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.t() if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.t()
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.t() if tall else x
