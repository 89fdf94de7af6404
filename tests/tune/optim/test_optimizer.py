from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from laplm.tune.optim.optimizer import AdamW


def test_updates_and_state_are_those_of_torch_bit_for_bit() -> None:
    torch.manual_seed(0)
    start = [torch.randn(n) * 0.02 for n in (7, 1000)]
    gradients = [[torch.randn(n) for n in (7, 1000)] for _ in range(6)]

    def made(kind: type[torch.optim.Optimizer], **options: bool) -> torch.optim.Optimizer:
        weights = [nn.Parameter(values.clone()) for values in start]
        groups = [
            {"params": weights[:1], "weight_decay": 0.1}, {"params": weights[1:], "weight_decay": 0}
        ]  # fmt: skip
        return kind(groups, lr=1e-2, betas=(0.9, 0.95), **options)  # type: ignore[arg-type]

    def update(optimizer: torch.optim.Optimizer, of_step: list[torch.Tensor]) -> list[nn.Parameter]:
        weights = [group["params"][0] for group in optimizer.param_groups]
        for weight, gradient in zip(weights, of_step, strict=True):
            weight.grad = gradient.clone()
        optimizer.step()
        optimizer.zero_grad()
        assert all(weight.grad is None for weight in weights)
        return weights

    ours, theirs = made(AdamW), made(torch.optim.AdamW, fused=True)
    for number, of_step in enumerate(gradients):
        if number == 3:  # what either has kept the other goes on with
            kept = ours.state_dict(), theirs.state_dict()
            ours.load_state_dict(kept[1])
            theirs.load_state_dict(kept[0])
        for mine, other in zip(update(ours, of_step), update(theirs, of_step), strict=True):
            assert torch.equal(mine, other)
            assert mine.requires_grad


def test_a_step_of_a_model_does_not_load_torchs_compiler(tiny_model_dir: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from laplm.model.files.checkpoint import open_checkpoint\n"
        "from laplm.tune.models.gpt2 import TorchGPT\n"
        "from laplm.tune.optim.optimizer import AdamW\n"
        "import torch\n"
        "model = TorchGPT.from_checkpoint(open_checkpoint(Path(sys.argv[1])))\n"
        "optimizer = AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95))\n"
        "model(torch.tensor([[1, 2, 3]])).sum().backward()\n"
        "optimizer.step()\n"
        "optimizer.zero_grad()\n"
        "optimizer.load_state_dict(optimizer.state_dict())\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    command = [sys.executable, "-c", program, str(tiny_model_dir)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (said.stdout, said.stderr) == ("False\n", "")
