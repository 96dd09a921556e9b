"""Greedy MAP by definition, with determinants instead of updates, to check the reference itself."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def kernel(features: Tensor, relevance: Tensor | None, gamma: float | None = None) -> np.ndarray:
    """``r[i] · cos(X[i], X[j]) · r[j]`` in float64; zero vectors have cosine 0 with everything. With ``gamma`` the
    Gaussian kernel of the directions in the place of the cosine, zero vectors with a diagonal of 0."""
    x = features.double().numpy()
    x = x / np.maximum(np.abs(x).max(axis=1, keepdims=True), 1e-320)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    x = np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)
    r = np.ones(len(x)) if relevance is None else relevance.double().numpy()
    similarity = x @ x.T
    if gamma is not None:
        similarity = np.exp(2 * gamma * (similarity - 1))
    np.fill_diagonal(similarity, norm[:, 0] > 0)
    return r[:, None] * similarity * r[None, :]


def greedy_by_determinants(matrix: np.ndarray, k: int) -> list[int]:
    """Add k times the index that makes the determinant of the chosen sub-matrix largest."""
    chosen: list[int] = []
    for _ in range(k):
        best, best_value = -1, -np.inf
        for i in range(len(matrix)):
            if i not in chosen:
                value = np.linalg.slogdet(matrix[np.ix_([*chosen, i], [*chosen, i])])[1]
                if value > best_value:
                    best, best_value = i, value
        chosen.append(best)
    return chosen


def decided_steps(matrix: np.ndarray, chosen: list[int], margin: float, exhausted: float) -> int:
    """Steps of a greedy run before the first one in which the best gain does not lead by ``margin`` (relative), or
    in which rounding decides whether a candidate is exhausted: its gain is within a factor of two of the threshold,
    or below the error of subtracting from it what nearly dependent picks explain (eps times the inverse of the
    smallest relative gain picked so far)."""
    matrix = np.array(matrix)
    d2 = np.diagonal(matrix).copy()
    diagonal = d2.copy()
    threshold = exhausted * d2
    amplified = 1.0
    rest = np.ones(len(d2), dtype=bool)
    c: list[np.ndarray] = []
    for t, j in enumerate(chosen):
        near = rest & (d2 > threshold / 2) & (d2 < threshold * max(2.0, amplified / 8))
        gains = d2[rest & (d2 > threshold)]
        if near.any() or gains.size == 0:
            return t
        top = np.sort(gains)[::-1]
        if top.size > 1 and top[0] - top[1] <= margin * top[0]:
            return t
        e = (matrix[j] - sum((row[j] * row for row in c), np.zeros(len(d2)))) / np.sqrt(d2[j])
        amplified = max(amplified, diagonal[j] / d2[j])
        c.append(e)
        d2 = d2 - e**2
        rest[j] = False
    return len(chosen)


def log_determinant(matrix: np.ndarray, chosen: Tensor) -> float:
    rows = chosen.numpy()
    return float(np.linalg.slogdet(matrix[np.ix_(rows, rows)])[1])


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def weights(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.05
