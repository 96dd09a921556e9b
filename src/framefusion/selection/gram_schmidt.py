"""Greedy MAP of one long segment without a Gram matrix: pivoted Gram–Schmidt on the rows ``v[i] = r[i] · X[i]
/ ‖X[i]‖``.

With ``q`` the orthonormal directions of the chosen rows, ``(v[i] · q[t])`` is the ``e[i]`` of the incremental
Cholesky, so the gains are ``d²[i] = r[i]² − Σ_t (v[i] · q[t])²``. Memory beyond the features is O(k·D + N),
time O(k·N·D + k²·D). A Gaussian kernel needs its columns instead (:func:`greedy_by_columns`), O(k·N).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from framefusion.selection.gram import NonFiniteFeaturesError, aligned
from framefusion.selection.numerics import (
    accumulation_dtype,
    exhaustion_threshold,
    fill_exhausted,
    gaussian_,
    normalise_relevance,
    safe_square_range,
    scale_by_peak,
    unscale_trace,
)
from framefusion.selection.plan import Picks, Segment
from framefusion.selection.problem import Answer, Ask, Problem

CHUNK_BYTES = 16 << 20
"""Rows are converted, gathered or rescaled in chunks of at most this many bytes."""

LAZY_ROWS = 1024
"""Rows of a block of :func:`greedy_lazily`."""


class Rows:
    """The rows of one segment in the accumulation dtype, a chunk at a time; views where nothing has to
    change."""

    def __init__(self, features: Tensor, segment: Segment) -> None:
        self.features = features
        self.segment = segment
        self.dtype = accumulation_dtype(features.dtype)
        self.rows = segment.rows.to(features.device)
        self.rescale = False
        self.chunk = max(1, CHUNK_BYTES // (features.shape[1] * self.dtype.itemsize))

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        for begin in range(0, len(self.segment), self.chunk):
            part = slice(begin, min(begin + self.chunk, len(self.segment)))
            yield part, self[part]

    def __getitem__(self, part: slice) -> Tensor:
        if self.segment.start is not None:
            x = self.features[self.segment.start + part.start : self.segment.start + part.stop]
        else:
            x = self.features.index_select(0, self.rows[part])
        x = aligned(x.to(self.dtype))
        return scale_by_peak(x, x.abs().amax(dim=1, keepdim=True)) if self.rescale else x

    def row(self, index: Tensor) -> Tensor:
        """One row (D,) at a 0-dimensional device index, without reading the index on the host."""
        x = self.features.index_select(0, self.rows.index_select(0, index.view(1))).to(self.dtype)
        return (scale_by_peak(x, x.abs().amax(dim=1, keepdim=True)) if self.rescale else x)[0]

    def norms_squared(self) -> Tensor:
        result = torch.empty(len(self.segment), dtype=self.dtype, device=self.features.device)
        for part, x in self:
            torch.linalg.vecdot(x, x, out=result[part])
        return result


def answer(problem: Problem, ask: Ask) -> Answer:
    """Ask for the shorter segments, and select from those that are too long for a Gram matrix here."""
    samples = problem.samples
    if all(len(segment) <= problem.long_segment for own in samples for segment in own):
        return ask(problem)
    short = tuple(tuple(s for s in own if len(s) <= problem.long_segment) for own in samples)
    answers = []
    for b, picks in enumerate(ask(replace(problem, samples=short))):
        others = iter(picks)
        answers.append(
            [next(others) if len(s) <= problem.long_segment else _select_long(problem, b, s) for s in samples[b]]
        )
    return answers


def _select_long(problem: Problem, b: int, segment: Segment) -> Picks:
    if segment.count == 0:
        return Picks.none(problem.features.device, problem.traced)
    return select_segment(
        problem.features[b],
        None if problem.relevance is None else problem.relevance[b],
        segment,
        problem.exhausted == "stop",
        problem.check_finite,
        problem.traced,
        problem.exhausted == "restart",
        problem.gamma,
    )


def select_segment(
    features: Tensor,
    relevance: Tensor | None,
    segment: Segment,
    early_stop: bool,
    check_finite: bool,
    traced: bool,
    restart: bool = False,
    gamma: float | None = None,
) -> Picks:
    """What one segment keeps; see :func:`gram.segment_kernels` for the arguments.

    With ``restart`` a new greedy begins over what is left as often as all candidates are exhausted; it reads the host.
    """
    x = Rows(features, segment)
    norms_squared = x.norms_squared()
    if check_finite:
        low, high = safe_square_range(x.dtype)
        if not bool(((norms_squared > low) & (norms_squared < high)).all()):
            if any(not bool(torch.isfinite(part).all()) for _, part in x):
                raise NonFiniteFeaturesError
            x.rescale = True
            norms_squared = x.norms_squared()
    weights = features.new_ones(len(segment), dtype=torch.float64) if relevance is None else relevance[x.rows]
    r = normalise_relevance(weights[None], x.dtype)[0]
    usable = (norms_squared > 0) & (norms_squared < torch.inf)
    inverse_norm = torch.where(usable, norms_squared.rsqrt(), 0.0)
    scale = r * inverse_norm
    trace = r.new_zeros(segment.count, 2) if traced else None
    diagonal = torch.where(usable, r * r, 0.0)
    greedy: Callable[..., Tensor] = greedy_lazily if features.device.type == "cpu" else greedy_everywhere
    if gamma is not None:
        greedy, scale = partial(greedy_by_columns, gamma=gamma), inverse_norm
    picks = greedy(x, scale, diagonal, segment.count, trace)
    found = fresh = int((picks >= 0).sum()) if restart else 0
    while fresh > 0 and found < segment.count:
        diagonal = diagonal.index_fill(0, picks[found - fresh : found], 0.0)
        more = greedy(x, scale, diagonal, segment.count - found, None if trace is None else trace[found:])
        picks[found:], fresh = more, int((more >= 0).sum())
        found += fresh
    if early_stop:
        picks = picks[picks >= 0]
    else:
        length, count = (torch.tensor([v], device=picks.device) for v in (len(segment), segment.count))
        picks = fill_exhausted(picks[None], weights[None], length, count)[0]
    table = None if trace is None else unscale_trace(trace[None], weights[None])[0, : len(picks)]
    return Picks(x.rows[picks], table)


def greedy_everywhere(x: Rows, scale: Tensor, diagonal: Tensor, count: int, trace: Tensor | None) -> Tensor:
    """The picks of one segment, all gains updated at every step; nothing returns to the host.

    Args:
        x: the segment's rows.
        scale: (n,) ``r / ‖X‖`` in the accumulation dtype.
        diagonal: (n,) exact ``r²``, same dtype; 0 excludes a candidate.
        count: picks wanted.
        trace: (count, 2) zeros, same dtype, to be filled as in :class:`~framefusion.selection.plan.Picks`, or None.

    Returns:
        (count,) int64 in greedy order, −1 after the last pick.
    """
    gain = diagonal.clone()
    threshold = exhaustion_threshold(diagonal)
    steps = min(count, x.features.shape[1])
    directions = gain.new_zeros(steps, x.features.shape[1])
    picks = torch.full((count,), -1, dtype=torch.int64, device=gain.device)
    projection = torch.empty_like(gain)
    for t in range(steps):
        best, j = torch.where(gain > threshold, gain, -1.0).max(dim=0)
        alive = best > 0
        picks[t] = torch.where(alive, j, -1)
        if trace is not None:
            novelty = torch.where(diagonal > 0, gain / diagonal, 0.0).max()
            trace[t] = torch.where(alive, torch.stack([best, novelty]), 0.0)
        q = torch.where(alive, direction(x.row(j) * scale[j], directions[:t]), 0.0)
        directions[t] = q
        for part, rows in x:
            torch.mv(rows, q, out=projection[part])
        gain -= (projection * scale) ** 2
        gain.index_fill_(0, j.view(1), -1.0)
    return picks


def greedy_lazily(x: Rows, scale: Tensor, diagonal: Tensor, count: int, trace: Tensor | None) -> Tensor:
    """:func:`greedy_everywhere`, its slow reference, without reading all features at every step.

    Reading them would be bound by the memory. Gains never increase, so an old gain is an upper bound of the present
    one: the rows stand in blocks, and a block catches up with the steps it missed, all in one product, only when the
    largest of its old gains is the largest of all. That is exact but for the rounding of the products. It reads the
    host at every step.
    """
    n, steps = len(diagonal), min(count, x.features.shape[1])
    gain, threshold = diagonal.clone(), exhaustion_threshold(diagonal)
    directions = gain.new_zeros(steps, x.features.shape[1])
    picks = torch.full((count,), -1, dtype=torch.int64, device=gain.device)
    parts = [slice(first, min(first + LAZY_ROWS, n)) for first in range(0, n, LAZY_ROWS)]
    # Each block as of the step it is at: its largest gain, that row, its largest novelty.
    step, place = [-1] * len(parts), [0] * len(parts)
    best, novelty = [math.inf] * len(parts), [math.inf] * len(parts)
    for t in range(steps):
        while True:
            b = best.index(max(best))
            if step[b] == t and trace is not None:
                # The novelty must be of this step too.
                newest = novelty.index(max(novelty))
                b = newest if step[newest] < t else b
            if step[b] == t:
                break
            part, missed = parts[b], slice(max(step[b], 0), t)
            if missed.start < t:
                products = x[part] @ directions[missed].T
                gain[part] -= (products * scale[part, None]).square_().sum(dim=1)
            alive = gain[part] > threshold[part]
            top, at = torch.where(alive, gain[part], 0.0).max(dim=0)
            step[b], best[b], place[b] = t, float(top), part.start + int(at)
            if trace is not None:
                free = (diagonal[part] > 0) & (threshold[part] < torch.inf)
                novelty[b] = float(torch.where(free, gain[part] / diagonal[part], 0.0).max())
        if not best[b] > 0:
            break
        if trace is not None:
            trace[t, 0], trace[t, 1] = best[b], max(novelty)
        j = place[b]
        picks[t], threshold[j] = j, torch.inf
        directions[t] = direction(x.row(picks[t]) * scale[j], directions[:t])
    return picks


def greedy_by_columns(
    x: Rows, inverse_norm: Tensor, diagonal: Tensor, count: int, trace: Tensor | None, *, gamma: float
) -> Tensor:
    """The picks of one segment by incremental Cholesky, a column of its Gaussian kernel at each.

    The kernel has no directions of D numbers to stand for what was picked, so memory is O(count · n).

    Args:
        inverse_norm: (n,) ``1 / ‖X‖``, 0 for zero vectors.
        gamma: of the kernel.
        x, diagonal, count, trace: and result, as in :func:`greedy_everywhere`.
    """
    gain, r = diagonal.clone(), diagonal.sqrt()
    threshold = exhaustion_threshold(diagonal)
    cholesky = gain.new_empty(count, len(gain))
    picks = torch.full((count,), -1, dtype=torch.int64, device=gain.device)
    for t in range(count):
        best, j = torch.where(gain > threshold, gain, -1.0).max(dim=0)
        alive = best > 0
        picks[t] = torch.where(alive, j, -1)
        if trace is not None:
            novelty = torch.where(diagonal > 0, gain / diagonal, 0.0).max()
            trace[t] = torch.where(alive, torch.stack([best, novelty]), 0.0)
        column, unit = cholesky[t], x.row(j) * inverse_norm[j]
        for part, rows in x:
            torch.mv(rows, unit, out=column[part])
        gaussian_(column.mul_(inverse_norm), gamma).mul_(r).mul_(r[j])
        column -= cholesky[:t, j] @ cholesky[:t]
        column *= torch.where(alive, best.rsqrt(), 0.0)
        gain -= column**2
        gain.index_fill_(0, j.view(1), -1.0)
    return picks


def direction(v: Tensor, known: Tensor) -> Tensor:
    """The unit vector of what orthonormal rows ``known`` (t, D) do not span of ``v`` (D,)."""
    for _ in range(2):  # once is not enough to stay orthogonal in float32
        v = v - known.T @ (known @ v)
    return v / v.norm().clamp_min(torch.finfo(v.dtype).tiny)
