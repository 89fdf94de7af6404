"""Attention of training, compiled and in torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from laplm.native import isa as isas
from laplm.tune.kernels import attention
from laplm.tune.kernels.attention import DocumentMask, causal_attention, causal_attention_torch

pytest_plugins = ("forgetting",)  # its fixture; a second conftest would hide the first one

FORMATS = [d for d in (torch.float32, torch.bfloat16) if attention.is_supported(64, d)]


def random_inputs(b: int, t: int, heads: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Queries, keys and values, and the gradient of what comes out."""
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(b, t, 3 * heads * dim, generator=generator) * 1.5
    return qkv, torch.randn(b, t, heads * dim, generator=generator)


def random_segments(b: int, t: int, seed: int = 0) -> Tensor:
    """Segments: some windows of many documents, short ones among them."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(b, t, generator=generator) < 0.05).long().cumsum(1)


def both_ways(
    attend: object, qkv: Tensor, d_out: Tensor, heads: int, documents: DocumentMask | None = None
) -> tuple[Tensor, Tensor]:
    """What comes out, and the gradient of what went in, in fp32."""
    qkv = qkv.detach().clone().requires_grad_()
    dim = qkv.shape[2] // 3 // heads
    out = attend(qkv, heads, dim**-0.5, documents)  # type: ignore[operator]
    out.backward(d_out.to(out.dtype))
    assert qkv.grad is not None
    return out.detach().float(), qkv.grad.float()


def distance(x: Tensor, expected: Tensor) -> float:
    return float((x - expected).norm() / expected.norm().clamp_min(1e-6))


def test_this_machine_has_kernels_for_what_it_trains_in() -> None:
    if isas.choose().family != "x86" or isas.choose().dot == "generic":
        pytest.skip("torch's attention is used here")
    assert torch.float32 in FORMATS
    qkv, d_out = random_inputs(1, 8, 2, 32)
    out = causal_attention(qkv.requires_grad_(), 2, 32**-0.5)
    assert type(out.grad_fn).__name__ == "_CausalAttentionBackward"
    out.backward(d_out)


@settings(max_examples=60, deadline=None)
@given(
    b=st.integers(1, 3),
    t=st.one_of(st.integers(1, 200), st.sampled_from([31, 32, 33, 63, 64, 65, 127, 128, 129])),
    heads=st.integers(1, 4),
    dim=st.sampled_from([16, 32, 48, 64]),
    seed=st.one_of(st.none(), st.integers(0, 100)),
)
def test_in_fp32_it_is_torchs(b: int, t: int, heads: int, dim: int, seed: int | None) -> None:
    qkv, d_out = random_inputs(b, t, heads, dim)
    documents = None if seed is None else DocumentMask(random_segments(b, t, seed))
    exact, exact_grad = both_ways(causal_attention_torch, qkv.double(), d_out, heads, documents)
    ours, grad = both_ways(causal_attention, qkv, d_out, heads, documents)
    assert distance(ours, exact) < 1e-6
    # A token that sees only itself gives its query and key no gradient at all.
    assert distance(grad, exact_grad) < 5e-6


@pytest.mark.skipif(torch.bfloat16 not in FORMATS, reason="the CPU does not multiply bfloat16")
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(("t", "dim"), [(1000, 64), (130, 32), (64, 16)])
def test_in_bf16_it_is_as_near_to_exact_as_torch(t: int, dim: int, several: bool) -> None:
    qkv, d_out = random_inputs(2, t, 3, dim)
    qkv, d_out = qkv.bfloat16(), d_out.bfloat16()
    documents = DocumentMask(random_segments(2, t)) if several else None
    exact = both_ways(causal_attention_torch, qkv.double(), d_out, 3, documents)
    theirs = both_ways(causal_attention_torch, qkv, d_out, 3, documents)
    ours = both_ways(causal_attention, qkv, d_out, 3, documents)
    for mine, torchs, expected in zip(ours, theirs, exact, strict=True):
        assert distance(mine, expected) < 1.05 * distance(torchs, expected)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_no_document_looks_into_another_in_its_window(dtype: torch.dtype) -> None:
    qkv, d_out = random_inputs(1, 150, 2, 32)
    qkv = qkv.to(dtype)
    segments = torch.tensor([[0] * 40 + [1] * 75 + [2] * 35])
    together = both_ways(causal_attention, qkv, d_out, 2, DocumentMask(segments))
    for part in (slice(0, 40), slice(40, 115), slice(115, 150)):
        changed = torch.randn(qkv.shape).to(dtype)
        changed[:, part] = qkv[:, part]
        others = both_ways(causal_attention, changed, d_out, 2, DocumentMask(segments))
        for one, other in zip(together, others, strict=True):
            assert torch.equal(one[:, part], other[:, part])
        alone = both_ways(causal_attention, qkv[:, part], d_out[:, part], 2)
        for one, other in zip(together, alone, strict=True):
            assert distance(one[:, part], other) < (1e-2 if dtype == torch.bfloat16 else 1e-6)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_no_token_looks_at_those_after_it(dtype: torch.dtype) -> None:
    qkv, d_out = random_inputs(1, 100, 2, 64)
    qkv = qkv.to(dtype)
    changed = qkv.clone()
    changed[:, 70:] = 7.0
    d_out[:, 70:] = 0.0
    for one, other in zip(
        both_ways(causal_attention, qkv, d_out, 2),
        both_ways(causal_attention, changed, d_out, 2),
        strict=True,
    ):
        assert torch.equal(one[:, :70], other[:, :70])


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_bits_do_not_depend_on_threads(dtype: torch.dtype) -> None:
    qkv, d_out = random_inputs(2, 200, 3, 32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(both_ways(causal_attention, qkv.to(dtype), d_out, 3))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(result, results[0], strict=True))


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_scores_far_apart_stay_finite_and_right(dtype: torch.dtype) -> None:
    qkv, d_out = random_inputs(1, 80, 1, 32)
    qkv[..., :64] *= 60  # scores of some tens of thousands: the pattern is 0 or 1
    ours = both_ways(causal_attention, qkv.to(dtype), d_out, 1)
    exact = both_ways(causal_attention_torch, qkv.to(dtype).double(), d_out.to(dtype), 1)
    assert all(torch.isfinite(part).all() for part in ours)
    assert distance(ours[0], exact[0]) < 1e-2


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("part", [0, 1, 2])
def test_what_is_not_a_number_is_not_hidden(dtype: torch.dtype, part: int) -> None:
    qkv, _ = random_inputs(1, 40, 1, 32)
    qkv[0, 20, 32 * part] = float("nan")
    out = causal_attention(qkv.to(dtype), 1, 32**-0.5)
    if part < 2:
        assert torch.isfinite(out[0, :20]).all()
        assert out[0, 20].isnan().all()
    else:
        assert out[0, 20:, 0].isnan().all()


def test_other_shapes_and_formats_are_torchs() -> None:
    qkv, _ = random_inputs(1, 20, 2, 24)
    for numbers in (qkv, qkv.double(), qkv.half()):
        qkv_given = numbers.clone().requires_grad_()
        out = causal_attention(qkv_given, 2, 24**-0.5)
        assert type(out.grad_fn).__name__ != "_CausalAttentionBackward"
    torch.testing.assert_close(
        causal_attention(qkv.double(), 2, 24**-0.5).float(), causal_attention(qkv, 2, 24**-0.5)
    )


@pytest.mark.parametrize("isa", isas.available(), ids=lambda isa: isa.name)
def test_every_variant_of_the_kernels_is_torchs(
    isa: isas.Isa, monkeypatch: pytest.MonkeyPatch, forgotten_kernels: None
) -> None:
    monkeypatch.setenv("LAPLM_ISA", isa.name)
    for dim in (48, 64):
        qkv, d_out = random_inputs(1, 100, 2, dim)
        documents = DocumentMask(random_segments(1, 100))
        exact = both_ways(causal_attention_torch, qkv.double(), d_out, 2, documents)
        ours = both_ways(causal_attention, qkv, d_out, 2, documents)
        assert distance(ours[0], exact[0]) < 1e-6
        assert distance(ours[1], exact[1]) < 5e-6
