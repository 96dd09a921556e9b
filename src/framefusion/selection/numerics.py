"""Constants and small tensor functions that every backend shares, so that they cannot drift apart."""

from __future__ import annotations

import torch
from torch import Tensor

EXHAUSTION_FACTOR = 64.0
"""A candidate is exhausted once ``d²[i] <= EXHAUSTION_FACTOR * eps * r[i]²``.

``eps`` belongs to the accumulation dtype. The factor covers the rounding of the Gram matrix and of the
incremental Cholesky updates: what is left of a token inside the span of the chosen ones is noise of a few
``eps``, and a token whose true gain is below 64 ``eps`` of its own diagonal (7.6e-6 in float32) cannot be
told from that noise. The comparison uses the token's *own* diagonal because min–max relevance spans twelve
orders of magnitude in ``r²``.
"""


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64 input, float32 for float32, bfloat16 and float16."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def exhaustion_threshold(diagonal: Tensor) -> Tensor:
    """``EXHAUSTION_FACTOR * eps * diagonal`` in the dtype of ``diagonal``; gains at or below it are noise."""
    return diagonal * (EXHAUSTION_FACTOR * torch.finfo(diagonal.dtype).eps)


def safe_square_range(dtype: torch.dtype) -> tuple[float, float]:
    """Squared norms inside this open range carry full precision in ``dtype``; outside, rescale."""
    info = torch.finfo(dtype)
    return info.tiny / info.eps, info.max * info.eps


def scale_by_peak(values: Tensor, peak: Tensor) -> Tensor:
    """``values`` times the power of two that brings ``peak`` (broadcastable) into [0.5, 1): exact."""
    exponent = torch.frexp(peak).exponent
    # One factor could overflow for subnormal peaks (2^149 in float32); two factors cannot.
    half = torch.div(exponent, 2, rounding_mode="floor")
    one = torch.ones_like(peak)
    return values * torch.ldexp(one, -half) * torch.ldexp(one, half - exponent)


def products(a: Tensor, b: Tensor) -> Tensor:
    """``a bᵀ`` (m, n) of a (m, D) and b (n, D), of one float dtype, on one device.

    In float32 on a CPU by oneDNN where torch has it, for which ``torch.mm`` does not ask: on AMD processors with
    AVX-512 it takes half of MKL's time, see docs/how-it-works/segment-dpp.md.
    """
    if a.device.type == "cpu" and a.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        return torch.nn.functional.linear(a.to_mkldnn(), b).to_dense()
    return a @ b.T


def gaussian_(cosine: Tensor, gamma: float) -> Tensor:
    """The Gaussian kernel ``exp(−γ ‖u − v‖²) = exp(2γ (cos − 1))`` of unit vectors, in the place of their cosines."""
    return cosine.sub_(1).mul_(2 * gamma).exp_()


def unscale_trace(trace: Tensor, relevance: Tensor) -> Tensor:
    """The gains of a trace (S, k, 2) as if relevance (S, n) had not been normalised, in float64; exact."""
    exponent = torch.frexp(relevance.double().amax(dim=-1)).exponent[:, None]
    gains, novelty = trace.double().unbind(-1)
    one = torch.ones_like(gains)
    # The square of the scale could overflow where the gain does not; its factors cannot.
    gains = gains * torch.ldexp(one, exponent) * torch.ldexp(one, exponent)
    return torch.stack([gains, novelty], dim=-1)


def normalise_relevance(relevance: Tensor, dtype: torch.dtype) -> Tensor:
    """Scale relevance (S, n) per row by a power of two so that its largest value lies in [0.5, 1); cast to
    ``dtype``.

    Greedy MAP does not change when all relevance of a segment is scaled, and ``r²`` then cannot overflow
    ``dtype``.
    """
    return scale_by_peak(relevance, relevance.amax(dim=-1, keepdim=True)).to(dtype)


def fill_exhausted(picks: Tensor, relevance: Tensor, lengths: Tensor, counts: Tensor) -> Tensor:
    """Complete greedy picks that stopped early.

    Args:
        picks: (S, k) int64, greedy order, −1 from the step on at which a segment was exhausted.
        relevance: (S, n) relevance, any float dtype; padding is ignored.
        lengths: (S,) int64, number of valid tokens of each segment.
        counts: (S,) int64, tokens wanted of each segment, at most its length.

    Returns:
        (S, k) int64. In the first ``counts[s]`` places of row ``s`` every −1 is replaced by the remaining
        tokens, by descending relevance, then by index. Places after ``counts[s]`` mean nothing.
    """
    n_segments, k = picks.shape
    n = relevance.shape[1]
    if n == 0 or k == 0:
        return picks
    steps = torch.arange(k, device=picks.device)
    tokens = torch.arange(n, device=picks.device)
    greedy = (picks >= 0) & (steps < counts[:, None])
    # One spare column takes the picks that do not count.
    taken = torch.zeros(n_segments, n + 1, dtype=torch.bool, device=picks.device)
    taken.scatter_(1, torch.where(greedy, picks, n), True)
    by_relevance = torch.argsort(relevance, dim=1, descending=True, stable=True)
    rank = torch.empty_like(by_relevance)
    rank.scatter_(1, by_relevance, tokens.expand(n_segments, n))
    unavailable = taken[:, :n] | (tokens >= lengths[:, None])
    remaining = torch.argsort(torch.where(unavailable, rank + n, rank), dim=1)
    position = (steps - greedy.sum(dim=1, keepdim=True)).clamp(0, n - 1)
    return torch.where(greedy, picks, remaining.gather(1, position))
