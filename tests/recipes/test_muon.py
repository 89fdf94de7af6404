from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.pocket.muon import Muon, orthogonalise


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 24), st.integers(1, 24), st.integers(0, 1000), st.sampled_from([1e-6, 1, 1e6])
)
def test_orthogonalised_matrix_keeps_its_directions_and_loses_its_sizes(
    rows: int, columns: int, seed: int, size: float
) -> None:
    torch.manual_seed(seed)
    u, s, vh = torch.linalg.svd(torch.randn(rows, columns), full_matrices=False)
    s = 0.05 + s / s.max()  # the iteration needs longer for the very smallest
    result = orthogonalise(size * (u * s) @ vh)
    assert result.shape == (rows, columns)
    in_their_directions = u.t() @ result @ vh.t()
    sizes = in_their_directions.diagonal()
    torch.testing.assert_close(in_their_directions, torch.diag(sizes), rtol=0, atol=2e-3)
    assert 0.6 < float(sizes.min()) <= float(sizes.max()) < 1.3


def test_one_step_is_that_of_torch_with_rounding_aside() -> None:
    """Torch's Muon computes in bfloat16: the same to about 1 %."""
    torch.manual_seed(0)
    for shape in ((16, 16), (16, 64), (64, 16)):
        ours = torch.nn.Parameter(torch.randn(shape))
        theirs = torch.nn.Parameter(ours.detach().clone())
        one = Muon([ours], lr=0.1, weight_decay=0.2)
        other = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.2, adjust_lr_fn="match_rms_adamw")
        for _ in range(3):
            gradient = torch.randn(shape)
            ours.grad, theirs.grad = gradient, gradient.clone()
            one.step()
            other.step()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02)


def test_queries_keys_and_values_are_made_orthogonal_apart() -> None:
    torch.manual_seed(0)
    whole = torch.nn.Parameter(torch.zeros(8, 24))
    parts = [torch.nn.Parameter(torch.zeros(8, 8)) for _ in range(3)]
    gradient = torch.randn(8, 24) * torch.tensor([1.0, 10.0, 100.0]).repeat_interleave(8)
    whole.grad = gradient
    for part, piece in zip(parts, gradient.split(8, dim=1), strict=True):
        part.grad = piece.clone()
    Muon([whole], lr=0.1).step()
    Muon(parts, lr=0.1).step()
    torch.testing.assert_close(whole, torch.cat(parts, dim=1))


def test_matrix_without_gradient_stays() -> None:
    parameter = torch.nn.Parameter(torch.ones(4, 4))
    Muon([parameter], lr=1.0).step()
    assert torch.equal(parameter, torch.ones(4, 4))


@pytest.mark.parametrize("rows", [1, 5])
def test_zero_gradient_gives_a_zero_update(rows: int) -> None:
    assert torch.equal(orthogonalise(torch.zeros(rows, 3)), torch.zeros(rows, 3))


def test_in_bfloat16_an_update_is_the_same_to_about_one_per_cent() -> None:
    torch.manual_seed(0)
    exact = torch.nn.Parameter(torch.randn(16, 48))
    quick = torch.nn.Parameter(exact.detach().clone())
    before = exact.detach().clone()
    exact.grad = torch.randn(16, 48)
    quick.grad = exact.grad.clone()
    Muon([exact], lr=0.1).step()
    Muon([quick], lr=0.1, dtype=torch.bfloat16).step()
    assert quick.dtype == torch.float32
    change = (exact - before).detach().norm()
    assert 0 < float((exact - quick).detach().norm()) < 0.03 * float(change)
