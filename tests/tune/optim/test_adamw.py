from __future__ import annotations

import pytest
import torch
from torch import nn

from laplm.tune.optim import adamw
from laplm.tune.optim.adamw import SplitAdamW
from laplm.tune.optim.master_weights import join_master, split_master


def parameters(
    sizes: tuple[int, ...] = (7, 1000, 200_000),
) -> tuple[SplitAdamW, list[nn.Parameter]]:
    """Weights in bfloat16 with their other halves in the optimiser."""
    torch.manual_seed(0)
    halves = [split_master(torch.randn(n) * 0.02) for n in sizes]
    weights = [nn.Parameter(upper) for upper, _ in halves]
    optimizer = SplitAdamW([{"params": weights, "weight_decay": 0.1}], lr=1e-3)
    for weight, (_, low) in zip(weights, halves, strict=True):
        optimizer.state[weight]["master_low"] = low
    return optimizer, weights


def test_the_first_update_is_that_of_torch_in_fp32() -> None:
    optimizer, weights = parameters()
    exact = [nn.Parameter(join_master(w, optimizer.state[w]["master_low"])) for w in weights]
    theirs = torch.optim.AdamW(exact, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    for weight, other in zip(weights, exact, strict=True):
        weight.grad = torch.randn_like(weight) * 1e-3
        other.grad = weight.grad.float()
    optimizer.step()
    theirs.step()
    for weight, other in zip(weights, exact, strict=True):
        ours = join_master(weight, optimizer.state[weight]["master_low"])
        torch.testing.assert_close(ours, other.data, rtol=1e-5, atol=1e-8)


def test_many_updates_stay_near_those_in_fp32() -> None:
    optimizer, (weight,) = parameters((5000,))
    exact = nn.Parameter(join_master(weight, optimizer.state[weight]["master_low"]))
    begin = exact.detach().clone()
    theirs = torch.optim.AdamW([exact], lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    for _ in range(100):
        weight.grad = (torch.randn_like(weight) + 0.5) * 1e-3
        exact.grad = weight.grad.float()
        optimizer.step()
        theirs.step()
    ours = join_master(weight, optimizer.state[weight]["master_low"])
    moved = (exact - begin).norm()
    assert (ours - exact).norm() < 0.01 * moved


def test_updates_too_small_for_bfloat16_add_up() -> None:
    weight = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = SplitAdamW([weight], lr=1e-5)
    for _ in range(1000):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert float(weight.detach().max()) == pytest.approx(0.99, abs=0.003)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_compiled_loop_does_what_the_plain_one_does(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    n = 70_001  # more than one thread's part
    weight, low = split_master(torch.randn(n))
    arrays = [weight, low, torch.randn(n).to(dtype)]
    arrays += [torch.rand(n).to(torch.bfloat16) for _ in range(2)]
    plain, compiled = ([a.clone() for a in arrays] for _ in range(2))
    numbers = (0.9, 0.95, 1e-8, 0.7, 1 - 1e-4, 1e-2, 1.3)
    for _ in range(3):
        adamw.adamw_update_torch(*plain, *numbers)
        adamw._update_on_cpu(tuple(compiled), numbers)
    torch.testing.assert_close(
        join_master(*compiled[:2]), join_master(*plain[:2]), rtol=1e-5, atol=2e-6
    )
    for one, two in zip(compiled[3:], plain[3:], strict=True):
        torch.testing.assert_close(one, two, rtol=0.01, atol=1e-6)


def test_a_slow_moment_is_kept_in_fp32() -> None:
    weight = nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
    state = SplitAdamW([weight], lr=1e-3, betas=(0.9, 0.999)).state[weight]
    assert (state["exp_avg"].dtype, state["exp_avg_sq"].dtype) == (torch.bfloat16, torch.float32)


def test_gradients_of_several_batches_are_summed_in_fp32() -> None:
    optimizer, (weight, *_) = parameters()
    for _ in range(300):  # in bfloat16 such a sum would stand still at 256
        weight.grad = torch.ones_like(weight)
        optimizer.accumulate()
    assert weight.grad is None
    assert torch.equal(optimizer.gradient(weight), torch.full((7,), 300.0))
    optimizer.zero_grad()
    assert optimizer.gradient(weight) is None
