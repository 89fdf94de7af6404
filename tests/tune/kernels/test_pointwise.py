from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from laplm.native import isa as isas
from laplm.tune.kernels.pointwise import cross_entropy_grad_, cross_entropy_grad_torch_, gelu
from laplm.tune.kernels.runtime import has_kernel

pytest_plugins = ("forgetting",)  # its fixture; a second conftest would hide the first one

FORMATS = [dtype for dtype in (torch.float32, torch.bfloat16) if has_kernel(dtype)]


def exact_gelu(x: Tensor) -> Tensor:
    return functional.gelu(x.double(), approximate="tanh")


def with_gradient(activate: object, x: Tensor, d_out: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().clone().requires_grad_()
    out = activate(x)  # type: ignore[operator]
    out.backward(d_out.to(out.dtype))
    assert x.grad is not None
    return out.detach(), x.grad


def random_logits(n: int, v: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n * v)
    logits = (torch.randn(n, v, generator=generator) * 4).to(dtype)
    return logits, torch.randint(0, v, (n,), generator=generator)


def check_cross_entropy(n: int, v: int, dtype: torch.dtype, scale: float) -> None:
    logits, targets = random_logits(n, v, dtype)
    x = logits.double().requires_grad_()
    exact = functional.cross_entropy(x, targets, reduction="sum") * scale
    exact.backward()
    assert x.grad is not None
    before = logits.clone()
    loss = cross_entropy_grad_(logits, targets, scale, with_grad=False)
    assert torch.equal(logits, before)
    assert float(loss) == pytest.approx(float(exact.detach()), rel=1e-6, abs=1e-6 * scale)
    assert torch.equal(cross_entropy_grad_(logits, targets, scale, with_grad=True), loss)
    tolerance = 4e-3 if dtype == torch.bfloat16 else 2e-6
    torch.testing.assert_close(
        logits.double(), x.grad, rtol=tolerance, atol=scale * (1e-6 if tolerance < 1e-4 else 1e-5)
    )


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_gelu_and_its_gradient_are_those_of_exact_numbers(dtype: torch.dtype) -> None:
    x = torch.cat([torch.linspace(-12, 12, 4000), torch.tensor([0.0, -1e-30, 1e4, -1e4] * 4)])
    x = x.to(dtype)
    d_out = torch.linspace(-2, 3, x.numel()).to(dtype)
    out, grad = with_gradient(gelu, x, d_out)
    exact, exact_grad = with_gradient(exact_gelu, x, d_out)
    tolerance = 4e-3 if dtype == torch.bfloat16 else 2e-6  # half a step, or some
    torch.testing.assert_close(out.double(), exact.double(), rtol=tolerance, atol=1e-6)
    torch.testing.assert_close(grad.double(), exact_grad.double(), rtol=tolerance, atol=2e-6)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("shape", [(3, 5, 16), (7,), (2, 3, 300), (40, 8192), (0, 16)])
def test_gelu_takes_any_shape_and_order_in_memory(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape).to(dtype)
    for given_x in (x, x.transpose(0, -1)):
        out, grad = with_gradient(gelu, given_x, torch.ones(given_x.shape))
        assert out.shape == grad.shape == given_x.shape
        torch.testing.assert_close(out, exact_gelu(given_x).to(dtype), rtol=8e-3, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 40),
    v=st.integers(2, 200),
    dtype=st.sampled_from(FORMATS or [torch.float64]),
    scale=st.sampled_from([1.0, 1 / 37, 1e-4]),
)
def test_loss_and_gradient_are_those_of_exact_numbers(
    n: int, v: int, dtype: torch.dtype, scale: float
) -> None:
    check_cross_entropy(n, v, dtype, scale)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_gradients_of_a_whole_vocabulary_and_several_threads(dtype: torch.dtype) -> None:
    check_cross_entropy(33, 50257, dtype, 1 / 33)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_large_logits_stay_finite_and_missing_numbers_show(dtype: torch.dtype) -> None:
    logits = torch.zeros(3, 40, dtype=dtype)
    logits[0, 3] = 30000.0
    logits[1] = -30000.0
    logits[2, 39] = float("nan")
    targets = torch.tensor([3, 0, 1])
    assert float(cross_entropy_grad_(logits[:1].clone(), targets[:1], 1.0, with_grad=True)) == 0
    loss = cross_entropy_grad_(logits[1:2].clone(), targets[1:2], 1.0, with_grad=True)
    assert float(loss) == pytest.approx(float(torch.tensor(40.0).log()), rel=1e-5)
    assert cross_entropy_grad_(logits.clone(), targets, 1.0, with_grad=True).isnan()


def test_other_numbers_and_few_logits_are_torchs() -> None:
    logits, targets = random_logits(4, 7, torch.float32)
    for given_logits in (logits, logits.double()):
        ours, theirs = given_logits.clone(), given_logits.clone()
        loss = cross_entropy_grad_(ours, targets, 0.5, with_grad=True)
        assert torch.equal(loss, cross_entropy_grad_torch_(theirs, targets, 0.5, with_grad=True))
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("isa", isas.available(), ids=lambda isa: isa.name)
def test_every_variant_of_the_kernels_is_right(
    isa: isas.Isa, monkeypatch: pytest.MonkeyPatch, forgotten_kernels: None
) -> None:
    monkeypatch.setenv("LAPLM_ISA", isa.name)
    check_cross_entropy(5, 133, torch.float32, 0.5)
    x = torch.randn(640)
    out, grad = with_gradient(gelu, x, torch.ones(640))
    exact, exact_grad = with_gradient(exact_gelu, x, torch.ones(640))
    torch.testing.assert_close(out, exact.float(), rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(grad, exact_grad, rtol=2e-6, atol=2e-6)
