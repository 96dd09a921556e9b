"""The textbook algorithm in float64 on the full N × N kernel: slow, readable, what every backend is held
against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from framefusion.selection.numerics import EXHAUSTION_FACTOR
from framefusion.selection.plan import Segment

MAX_TOKENS = 8192
"""The full matrix of more tokens than this would need over half a GiB."""


def select(features: Tensor, relevance: Tensor | None, segments: Sequence[Segment], early_stop: bool) -> list[Tensor]:
    """Rows kept in each segment, greedy order.

    Args:
        features: (N, D) finite features, any float dtype and device.
        relevance: (N,) relevance ≥ 0, or None for uniform relevance.
        segments: segments of this sample.
        early_stop: return fewer tokens instead of filling up when a segment is exhausted.
    """
    n = features.shape[0]
    if n > MAX_TOKENS:
        raise ValueError(
            f"backend 'reference' builds the full N × N matrix and takes at most {MAX_TOKENS} tokens, "
            f"got {n}; use backend='auto'"
        )
    r = torch.ones(n, dtype=torch.float64, device="cpu") if relevance is None else relevance.double().cpu()
    kernel = full_kernel(features.double().cpu(), r)
    eps = torch.finfo(torch.float64 if features.dtype == torch.float64 else torch.float32).eps
    picks = []
    for segment in segments:
        rows = segment.rows
        chosen = greedy_map(kernel[rows][:, rows], segment.count, EXHAUSTION_FACTOR * eps)
        if not early_stop:
            remaining = [i for i in range(len(segment)) if i not in set(chosen)]
            remaining.sort(key=lambda i: (-float(r[rows[i]]), i))
            chosen += remaining[: segment.count - len(chosen)]
        picks.append(rows[chosen].to(features.device))
    return picks


def full_kernel(features: Tensor, relevance: Tensor) -> Tensor:
    """``L[i, j] = r[i] · cos(X[i], X[j]) · r[j]`` with an exact diagonal, (N, N) float64."""
    peak = features.abs().amax(dim=1, keepdim=True)
    shrunk = features / torch.where(peak > 0, peak, 1.0)
    norm = shrunk.norm(dim=1, keepdim=True)
    unit = shrunk / torch.where(norm > 0, norm, 1.0)
    cosine = unit @ unit.T
    cosine.diagonal().copy_((norm[:, 0] > 0).double())
    return relevance[:, None] * cosine * relevance[None, :]


def greedy_map(kernel: Tensor, k: int, exhausted_below: float) -> list[int]:
    """Chen, Zhang & Zhou 2018, "Fast Greedy MAP Inference for Determinantal Point Process", Algorithm 1.

    Args:
        kernel: (n, n) float64 kernel matrix L.
        k: picks wanted, at most n.
        exhausted_below: a candidate is exhausted when ``d²[i] <= exhausted_below · L[i, i]``.

    Returns:
        At most k indices in greedy order; fewer when every candidate left is exhausted.
    """
    n = kernel.shape[0]
    d2 = kernel.diagonal().clone()
    floor = exhausted_below * d2
    c = torch.zeros(k, n, dtype=torch.float64, device="cpu")
    available = torch.ones(n, dtype=torch.bool, device="cpu")
    chosen: list[int] = []
    for t in range(k):
        candidates = available & (d2 > floor)
        if not bool(candidates.any()):
            break
        j = int(torch.where(candidates, d2, -torch.inf).argmax())
        chosen.append(j)
        available[j] = False
        e = (kernel[j] - c[:t, j] @ c[:t]) / d2[j].sqrt()
        c[t] = e
        d2 = d2 - e**2
    return chosen
