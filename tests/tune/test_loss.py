from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from laplm.tune import loss as loss_module
from laplm.tune.data.corpus import IGNORE
from laplm.tune.loss import chunked_cross_entropy


def example(n: int, ignored: float, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(n)
    hidden = torch.randn(n, 16, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(37, 16, generator=generator, dtype=dtype).requires_grad_()
    targets = torch.randint(0, 37, (n,), generator=generator)
    targets[torch.rand(n, generator=generator) < ignored] = IGNORE
    return hidden, weight, targets


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 50), chunk_size=st.integers(1, 60), ignored=st.sampled_from([0.0, 0.4, 0.9])
)
def test_loss_and_gradients_are_those_of_the_plain_loss(
    n: int, chunk_size: int, ignored: float
) -> None:
    hidden, weight, targets = example(n, ignored, torch.float32)
    if not (targets != IGNORE).any():
        targets[0] = 0
    expected = functional.cross_entropy(hidden @ weight.t(), targets, ignore_index=IGNORE)
    expected_gradients = torch.autograd.grad(3 * expected, (hidden, weight))
    loss = chunked_cross_entropy(hidden, weight, targets, chunk_size)
    gradients = torch.autograd.grad(3 * loss, (hidden, weight))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_batch_and_positions_may_stay_apart() -> None:
    hidden, weight, targets = example(24, 0.2, torch.float32)
    flat = chunked_cross_entropy(hidden, weight, targets, 5)
    shaped = chunked_cross_entropy(hidden.view(4, 6, 16), weight, targets.view(4, 6), 5)
    assert torch.equal(flat, shaped)


def test_without_gradients_the_loss_is_the_same() -> None:
    hidden, weight, targets = example(24, 0.2, torch.float32)
    with torch.no_grad():
        quiet = chunked_cross_entropy(hidden, weight, targets, 5)
    assert not quiet.requires_grad
    assert torch.equal(quiet, chunked_cross_entropy(hidden, weight, targets, 5).detach())


def test_nothing_to_learn_is_loss_zero_with_zero_gradients() -> None:
    hidden, weight, targets = example(8, 1.1, torch.float32)
    loss = chunked_cross_entropy(hidden, weight, targets)
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, (hidden, weight)):
        assert gradient.abs().max() == 0


def test_under_bf16_autocast_it_stays_close_to_the_fp32_loss() -> None:
    hidden, weight, targets = example(64, 0.2, torch.float32)
    exact = chunked_cross_entropy(hidden, weight, targets, 16)
    exact_gradients = torch.autograd.grad(exact, (hidden, weight))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = chunked_cross_entropy(hidden, weight, targets, 16)
    gradients = torch.autograd.grad(rough, (hidden, weight))
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.01)
    for ours, theirs in zip(gradients, exact_gradients, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 0.02 * theirs.norm()
    assert rough.item() != exact.item()  # autocast did take part


def test_all_logits_never_exist_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    cross_entropy_grad_ = loss_module.cross_entropy_grad_

    def watch(logits: torch.Tensor, *args: object, **more: object) -> torch.Tensor:
        seen.append(logits.shape[0])
        return cross_entropy_grad_(logits, *args, **more)

    monkeypatch.setattr(loss_module, "cross_entropy_grad_", watch)
    hidden, weight, targets = example(50, 0.0, torch.float32)
    chunked_cross_entropy(hidden, weight, targets, 16).backward()
    assert seen == [16, 16, 16, 2]
    seen.clear()
    with torch.no_grad():
        chunked_cross_entropy(*example(1025, 0.0, torch.float32))
    assert seen == [1024, 1]  # as memory.py counts


def test_where_no_gradient_is_wanted_none_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[bool] = []
    cross_entropy_grad_ = loss_module.cross_entropy_grad_

    def watch(*arguments: object, with_grad: bool) -> torch.Tensor:
        wanted.append(with_grad)
        return cross_entropy_grad_(*arguments, with_grad=with_grad)

    monkeypatch.setattr(loss_module, "cross_entropy_grad_", watch)
    hidden, weight, targets = example(8, 0.0, torch.float32)
    chunked_cross_entropy(hidden, weight, targets)
    with torch.no_grad():
        chunked_cross_entropy(hidden, weight, targets)
    assert wanted == [True, False]


def test_a_part_of_a_batch_is_divided_by_the_count_of_all_of_it() -> None:
    hidden, weight, targets = example(24, 0.3, torch.float32)
    total = functional.cross_entropy(
        hidden @ weight.t(), targets, ignore_index=IGNORE, reduction="sum"
    )
    expected = torch.autograd.grad(total / 100, (hidden, weight))
    loss = chunked_cross_entropy(hidden, weight, targets, 7, count=100)
    assert loss.item() == pytest.approx(total.item() / 100, rel=1e-5)
    for ours, theirs in zip(torch.autograd.grad(loss, (hidden, weight)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_of_what_is_frozen_no_gradient_is_made(frozen: str) -> None:
    hidden, weight, targets = example(24, 0.3, torch.float32)
    both = {"hidden": hidden, "weight": weight}
    other = both[({"hidden", "weight"} - {frozen}).pop()]
    (expected,) = torch.autograd.grad(chunked_cross_entropy(hidden, weight, targets, 7), other)
    both[frozen].requires_grad_(False)
    chunked_cross_entropy(hidden, weight, targets, 7).backward()
    assert both[frozen].grad is None
    torch.testing.assert_close(other.grad, expected, rtol=0, atol=0)


def test_many_chunks_in_bfloat16_are_added_up_in_fp32() -> None:
    hidden, weight, targets = example(1024, 0.0, torch.bfloat16)
    gradients = [
        torch.autograd.grad(chunked_cross_entropy(hidden, weight, targets, size), weight)[0]
        for size in (1024, 4)
    ]
    exact = (t.detach().float().requires_grad_() for t in (hidden, weight))
    hidden32, weight32 = exact
    (theirs,) = torch.autograd.grad(
        functional.cross_entropy(hidden32 @ weight32.t(), targets), weight32
    )
    errors = [float((g.float() - theirs).norm() / theirs.norm()) for g in gradients]
    assert errors[1] < 2 * errors[0] < 0.02
