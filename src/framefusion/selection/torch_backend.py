"""Greedy MAP in plain torch, on any device, for a bucket of segments at a time.

Every step is a fixed handful of tensor operations on all segments of the bucket; nothing is read back to the
host before the last step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from framefusion.selection.gram import (
    BUCKET_BYTES_ACCELERATOR,
    BUCKET_BYTES_CPU,
    Bucket,
    make_buckets,
    segment_kernels,
)
from framefusion.selection.numerics import (
    accumulation_dtype,
    exhaustion_threshold,
    fill_exhausted,
    gaussian_,
    unscale_trace,
)
from framefusion.selection.plan import Picks
from framefusion.selection.problem import Answer, Problem

OWN_STEPS: frozenset[str] = frozenset()


def check_device(device: torch.device) -> None:
    """It runs everywhere."""


def select(problem: Problem) -> Answer:
    """What each segment of each sample keeps, one sample after another; see :class:`~.backends.Backend`."""
    return [_select_sample(problem.of_sample(b)) for b in range(len(problem.samples))]


def select_from_kernel(kernel: Tensor, diagonal: Tensor, count: int) -> Tensor:
    """See :class:`~.backends.Backend`."""
    return greedy_map(kernel[None], diagonal[None].contiguous(), count)[0]


def _select_sample(problem: Problem) -> list[Picks]:
    (features,), (segments,) = problem.features, problem.samples
    relevance = None if problem.relevance is None else problem.relevance[0]
    picks = [Picks.none(features.device, problem.traced) for _ in segments]
    limit = BUCKET_BYTES_CPU if features.device.type == "cpu" else BUCKET_BYTES_ACCELERATOR
    itemsize = accumulation_dtype(features.dtype).itemsize
    for bucket in make_buckets(list(enumerate(segments)), features.shape[1], itemsize, limit):
        results = select_bucket(
            features,
            relevance,
            bucket,
            problem.exhausted == "stop",
            problem.check_finite,
            problem.traced,
            problem.gamma,
        )
        for place, result in zip(bucket.places, results, strict=True):
            picks[place] = result
    return picks


def select_bucket(
    features: Tensor,
    relevance: Tensor | None,
    bucket: Bucket,
    early_stop: bool,
    check_finite: bool,
    traced: bool,
    gamma: float | None,
) -> list[Picks]:
    """What each segment of the bucket keeps; arguments as in :func:`gram.segment_kernels`, and ``gamma`` of the
    Gaussian kernel, None for cosines."""
    k = segment_kernels(features, relevance, bucket, check_finite)
    scale = k.scale
    if gamma is not None:
        scale = k.diagonal.sqrt()
        inverse_norm = torch.where(scale > 0, k.scale / scale, 0.0)
        gaussian_(k.gram.mul_(inverse_norm[:, :, None]).mul_(inverse_norm[:, None, :]), gamma)
    kernel = k.gram.mul_(scale[:, :, None]).mul_(scale[:, None, :])
    steps = int(k.counts.max())
    trace = k.diagonal.new_zeros(len(k.diagonal), steps, 2) if traced else None
    picks = greedy_map(kernel, k.diagonal, steps, trace)
    counts = k.counts.to(picks.device)
    if early_stop:
        step = torch.arange(picks.shape[1], device=picks.device)
        kept = ((picks >= 0) & (step < counts[:, None])).sum(dim=1).tolist()
        picks = picks.clamp(min=0)
    else:
        kept = k.counts.tolist()
        picks = fill_exhausted(picks, k.fill_relevance, k.lengths.to(picks.device), counts)
    rows = k.rows.gather(1, picks)
    table = None if trace is None else unscale_trace(trace, k.fill_relevance)
    return [Picks(rows[s, :n], None if table is None else table[s, :n]) for s, n in enumerate(kept)]


def greedy_map(kernel: Tensor, diagonal: Tensor, steps: int, trace: Tensor | None = None) -> Tensor:
    """Greedy MAP of S determinantal point processes at once.

    Incremental Cholesky, Chen, Zhang & Zhou 2018, "Fast Greedy MAP Inference for Determinantal Point
    Process", Algorithm 1.

    Args:
        kernel: (S, n, n) kernel matrices L; only off-diagonal entries between candidates are used.
        diagonal: (S, n) exact L[i, i] in the kernel's dtype; 0 excludes a candidate.
        steps: number of picks, at most n.
        trace: (S, steps, 2) zeros in the kernel's dtype, to be filled with each pick's gain and the novelty before
            it, see :class:`~framefusion.selection.plan.Picks`; None does not ask for them.

    Returns:
        (S, steps) int64 in greedy order, −1 from the step on at which no candidate exceeds its exhaustion
        threshold.
    """
    size, n = diagonal.shape
    gain = diagonal.clone()
    threshold = exhaustion_threshold(diagonal)
    cholesky = kernel.new_zeros(size, steps, n)
    picks = torch.empty(size, steps, dtype=torch.int64, device=kernel.device)
    each = torch.arange(size, device=kernel.device)
    for t in range(steps):
        best, j = torch.where(gain > threshold, gain, -1.0).max(dim=1)
        alive = best > 0
        picks[:, t] = torch.where(alive, j, -1)
        if trace is not None:
            novelty = torch.where(diagonal > 0, gain / diagonal, 0.0).amax(dim=1)
            trace[:, t] = torch.where(alive[:, None], torch.stack([best, novelty], dim=1), 0.0)
        if t + 1 == steps:
            break
        update = kernel[each, j]
        if t:
            chosen = cholesky[each, :t, j]
            update = torch.baddbmm(update[:, None], chosen[:, None], cholesky[:, :t], alpha=-1.0).squeeze(1)
        update = torch.where(alive, best.rsqrt(), 0.0)[:, None] * update
        cholesky[:, t] = update
        gain = gain - update * update
        gain.scatter_(1, j[:, None], -1.0)
    return picks
