"""Principal components against the eigenvectors of the covariance matrix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from laplm.look.pca import pca


@pytest.mark.parametrize(("n", "c"), [(40, 7), (5, 30), (3, 3)])
def test_components_are_eigenvectors_of_the_covariance(n: int, c: int) -> None:
    rng = np.random.default_rng(n)
    points = (rng.standard_normal((n, c)) * np.linspace(1, 5, c) + 10).astype(np.float32)
    found = pca(points, 2)
    values, vectors = np.linalg.eigh(np.cov(points.astype(np.float64).T))
    np.testing.assert_allclose(found.explained, values[::-1][:2] / values.sum(), rtol=1e-4)
    along = np.abs(found.components @ vectors[:, ::-1][:, :2])
    np.testing.assert_allclose(along, np.eye(2), atol=1e-4)
    want = (points - points.mean(axis=0)) @ found.components.T
    np.testing.assert_allclose(found.scores, want, atol=1e-3)
    assert (found.components.max(axis=1) == np.abs(found.components).max(axis=1)).all()
    assert f"{found.explained[0]:.1%}" in found.name(0)


finite = st.floats(-100, 100, width=32)
clouds = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=finite
)


@given(clouds, st.integers(1, 9))
@settings(deadline=None)
def test_any_points_have_as_many_components_as_there_can_be(points: np.ndarray, k: int) -> None:
    found = pca(points, k)
    assert found.scores.shape == (len(points), min(k, *points.shape))
    assert np.isfinite(found.scores).all() and found.explained.sum() <= 1 + 1e-5
    np.testing.assert_allclose(found.scores.mean(axis=0), 0, atol=1e-3)


def test_points_that_are_all_the_same_explain_nothing() -> None:
    found = pca(np.ones((4, 3), np.float32))
    np.testing.assert_array_equal(found.scores, 0)
    np.testing.assert_array_equal(found.explained, 0)
