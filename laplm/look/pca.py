"""Principal component analysis: the few directions in which points differ most.

Source: Jolliffe 2002, "Principal Component Analysis", section 3.5 (through the singular values).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class PCA:
    """Points seen along their principal components. N points of width C, K components.

    Attributes:
        scores: the points in the new directions, (N, K); each column has mean 0.
        components: the directions, (K, C), of length 1. Their sign, which is free, is the one
            that makes the largest number positive.
        explained: the share of the points' variance along each of the K, of all there is.
    """

    scores: Array
    components: Array
    explained: Array

    def name(self, k: int) -> str:
        """What to write at an axis: which component, and how much of the variance is on it."""
        return f"component {k + 1} ({self.explained[k]:.1%} of the variance)"


def pca(points: Array, n_components: int = 2) -> PCA:
    """Principal components of points (N, C), centred; N - 1 of them at most are not empty."""
    centred = points.astype(np.float64) - points.mean(axis=0, dtype=np.float64)
    u, lengths, components = np.linalg.svd(centred, full_matrices=False)
    k = min(n_components, len(lengths))
    largest = np.abs(components[:k]).argmax(axis=1)
    signs = np.where(components[np.arange(k), largest] < 0, -1.0, 1.0)
    variance = lengths**2
    total = variance.sum()
    return PCA(
        scores=(u[:, :k] * lengths[:k] * signs).astype(np.float32),
        components=(components[:k] * signs[:, None]).astype(np.float32),
        explained=(variance[:k] / (total if total > 0 else 1.0)).astype(np.float32),
    )
