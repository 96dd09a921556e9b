"""What the selection is measured against, written from the formulas of the published system.

Both are kept as they are used in the wild, one torch operation after another; only the bench and its tests
call them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def original_global_matrix(features: Tensor, attention: Tensor, segments: Sequence[Tensor], keep: int) -> Tensor:
    """The published way: one similarity matrix over all tokens, sub-kernels cut out of it.

    Args:
        features: (B, N, D).
        attention: (B, N), attention that each token receives.
        segments: positions of each segment's tokens, (n,) int64.
        keep: tokens to keep of each segment.

    Returns:
        (B, K) int64, greedy order within a segment.
    """
    normalised = (features / features.norm(dim=-1, keepdim=True)).float()
    similarity = torch.matmul(normalised, normalised.transpose(1, 2))
    relevance = _published_relevance(attention)
    kernel = relevance.unsqueeze(2) * similarity * relevance.unsqueeze(1)
    picks = []
    for rows in segments:
        chosen = _greedy(kernel[:, rows][:, :, rows], min(keep, len(rows)))
        picks.append(rows[chosen])
    return torch.cat(picks, dim=1)


def per_segment_loop(features: Tensor, attention: Tensor, segments: Sequence[Tensor], keep: int) -> Tensor:
    """The published improvement: similarity per segment; arguments as above, one sample after another."""
    samples = []
    for x, received in zip(features, attention, strict=True):
        relevance = _published_relevance(received[None])[0]
        picks = []
        for rows in segments:
            normalised = x[rows]
            normalised = (normalised / normalised.norm(dim=-1, keepdim=True)).float()
            similarity = torch.einsum("id,jd->ij", normalised, normalised)
            r = relevance[rows]
            kernel = r[:, None] * similarity * r[None, :]
            picks.append(rows[_greedy(kernel[None], min(keep, len(rows)))[0]])
        samples.append(torch.cat(picks))
    return torch.stack(samples)


def _published_relevance(attention: Tensor) -> Tensor:
    """Min–max scaled negative attention (B, N), float32."""
    s = -attention.float()
    low, high = s.amin(dim=1, keepdim=True), s.amax(dim=1, keepdim=True)
    return (s - low + 1e-6) / (high - low + 1e-8)


def _greedy(kernel: Tensor, k: int) -> Tensor:
    """Incremental Cholesky on (B, n, n), one operation after another; (B, k)."""
    batch, n, _ = kernel.shape
    each = torch.arange(batch, device=kernel.device)
    c = torch.zeros(k, batch, n, dtype=kernel.dtype, device=kernel.device)
    d2 = torch.diagonal(kernel, dim1=1, dim2=2).clone()
    picks = torch.empty(k, batch, dtype=torch.long, device=kernel.device)
    for t in range(k):
        j = torch.argmax(d2, dim=-1)
        picks[t] = j
        e = kernel[each, j] - torch.einsum("tb,tbn->bn", c[:t, each, j], c[:t])
        e = e / torch.sqrt(d2[each, j]).unsqueeze(-1)
        c[t] = e
        d2 = d2 - torch.square(e)
        d2[each, j] = -torch.inf
    return picks.t()
