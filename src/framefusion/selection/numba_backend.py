"""Greedy MAP on the CPU: Gram matrices by torch's libraries, half of each, and one compiled loop over each of them.

The arithmetic of a sample depends on that sample alone, so a row of a batch is bitwise the single run. Products are
summed by the library as it likes, but each on one thread: threads share segments, or the stripes of a segment, and
equal input gives equal output on any number of them. Only in samples of :data:`LITTLE` work torch's threads share a
product, and with very long rows their number may decide near-ties.

The loop is compiled at the first call for float32 or float64, for seconds, and kept in Numba's on-disk cache, which is
keyed by its file, the processor and Numba's version; :func:`warm_up` does it ahead of time. When ``"auto"`` is this
backend, :mod:`framefusion.selection.automatic` says.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from framefusion.errors import ArgumentError
from framefusion.selection import greedy_loop
from framefusion.selection.gram import NonFiniteFeaturesError, aligned, segment_rows
from framefusion.selection.greedy_loop import greedy, mirror
from framefusion.selection.numerics import (
    EXHAUSTION_FACTOR,
    accumulation_dtype,
    gaussian_,
    products,
    safe_square_range,
    scale_by_peak,
)
from framefusion.selection.plan import Picks, Segment
from framefusion.selection.problem import Answer, Problem
from framefusion.selection.threads import each, here

STRIPE = 64
"""Rows of a stripe of the triangle in segments of up to 1,024 tokens; longer ones have 16 stripes or fewer."""

SIDE_BY_SIDE = 1024
"""Threads share segments of at most this many tokens, 4 MiB of Gram matrix each in float32. Longer ones come one after
the other, and threads share their stripes."""

LITTLE = 1 << 30
"""Multiplications of a sample's Gram matrices up to which torch's threads share every product. They spin for some
milliseconds behind each operation, and other threads would share a core with them for about as long as they worked."""

OWN_STEPS = frozenset({"restart"})


def check_device(device: torch.device) -> None:
    """Raise a ValueError where compiled code cannot read the features."""
    if device.type != "cpu":
        raise ArgumentError(f"backend 'numba' runs on the CPU, features are on {device}; use backend='torch' or 'auto'")


def select(problem: Problem) -> Answer:
    """What each segment of each sample keeps, and with ``assigned`` the most similar tokens; see
    :class:`~.backends.Backend`.

    A segment whose rows are not consecutive, or not of the accumulation dtype, is copied for the time of its Gram
    matrix, which must fit the memory.
    """
    answer = [[Picks.none(problem.features.device, problem.traced)] * len(own) for own in problem.samples]

    def work(place: tuple[int, int, int]) -> None:
        _, b, i = place
        answer[b][i] = _select_segment(problem, b, problem.samples[b][i])

    shared: list[tuple[int, int, int]] = []
    for b, own in enumerate(problem.samples):
        places = [(len(segment), b, i) for i, segment in enumerate(own) if segment.count > 0]
        if sum(length**2 for length, _, _ in places) * problem.features.shape[-1] > LITTLE:
            shared += places
            continue
        with here():
            for place in places:
                work(place)
    shared.sort(reverse=True)
    short = sum(length <= SIDE_BY_SIDE for length, _, _ in shared)
    alone = len(shared) - short if short >= torch.get_num_threads() else len(shared)
    for place in shared[:alone]:
        work(place)
    each(work, shared[alone:])
    return answer


def _select_segment(problem: Problem, b: int, segment: Segment) -> Picks:
    relevance = None if problem.relevance is None else problem.relevance[b]
    kernel = _segment_kernel(problem.features[b], relevance, segment, problem.check_finite, problem.gamma)
    found, trace = _greedy(kernel, segment.count, problem.exhausted, problem.traced)
    picks = Picks(segment.rows[found], trace if problem.traced else None)
    if not problem.assigned or not found.shape[0]:
        return picks
    place, cosine = _most_similar(kernel, found)
    return picks._replace(nearest=segment.rows[place], similarity=cosine)


def select_from_kernel(kernel: Tensor, diagonal: Tensor, count: int) -> Tensor:
    """See :class:`~.backends.Backend`."""
    picks, own = np.full(count, -1), diagonal.contiguous().numpy()
    factor = EXHAUSTION_FACTOR * torch.finfo(kernel.dtype).eps
    greedy(kernel.contiguous().numpy(), np.ones_like(own), own, factor, picks, np.empty((0, 2)))
    return torch.from_numpy(picks)


def is_compiled(dtype: torch.dtype) -> bool:
    """Whether this process has compiled code for an accumulation dtype."""
    own = np.dtype(str(dtype).removeprefix("torch."))
    return any(str(kernel.dtype) == own.name for kernel, *_ in greedy.signatures)


def is_cached() -> bool:
    """Whether Numba's cache on disk holds compiled code of the present loop; of which dtype it does not say."""
    source = Path(greedy_loop.__file__)
    written = source.stat().st_mtime if source.exists() else 0.0
    folder = Path(greedy.stats.cache_path or os.devnull)
    found = folder.glob(f"{source.stem}.{greedy.__name__}-*.nbc")
    return any(path.stat().st_mtime >= written for path in found)


def warm_up(dtype: torch.dtype) -> None:
    """Compile everything for features of ``dtype``."""
    one = torch.ones(1, 1, 1, dtype=dtype, device="cpu")
    select(Problem(one, None, ((Segment(0, torch.zeros(1, dtype=torch.int64, device="cpu"), 1, 0),),)))


@dataclass(frozen=True)
class _Kernel:
    """The kernel of one segment, ``L[i, j] = values[i, j] · scale[i] · scale[j]``.

    Attributes:
        values: (n, n) symmetric, in the accumulation dtype: products of the features, or the Gaussian kernel.
        scale: (n,) ``r / ‖X‖``, or ``r`` for the Gaussian kernel; 0 for zero vectors.
        diagonal: (n,) exact ``r²``, 0 for zero vectors.
        inverse: (n,) ``1 / ‖X‖``, 0 for zero vectors.
        weights: (n,) float64, relevance as given.
        exponent: of the power of two that relevance was divided by, which brings the largest ``r`` into [0.5, 1).
        gamma: of the Gaussian kernel, None for cosines.
    """

    values: np.ndarray
    scale: np.ndarray
    diagonal: np.ndarray
    inverse: np.ndarray
    weights: np.ndarray
    exponent: int
    gamma: float | None


def _segment_kernel(
    features: Tensor, relevance: Tensor | None, segment: Segment, check_finite: bool, gamma: float | None
) -> _Kernel:
    dtype = accumulation_dtype(features.dtype)
    x = aligned(segment_rows(features, segment, segment.rows).to(dtype))
    gram = lower_gram(x)
    squares = gram.diagonal().numpy().copy()
    low, high = safe_square_range(dtype)
    if check_finite and not ((squares > low) & (squares < high)).all():
        peak = x.abs().amax(dim=1, keepdim=True)
        if not bool(torch.isfinite(peak).all()):
            raise NonFiniteFeaturesError
        gram = lower_gram(scale_by_peak(x, peak))
        squares = gram.diagonal().numpy().copy()
    weights = np.ones(len(segment)) if relevance is None else relevance[segment.rows].numpy()
    exponent = int(np.frexp(weights.max())[1])
    usable = (squares > 0) & (squares < np.inf)
    r = np.where(usable, np.ldexp(weights, -exponent), 0).astype(squares.dtype)
    inverse = 1 / np.sqrt(np.where(usable, squares, squares.dtype.type(np.inf)))
    scale = r * inverse
    if gamma is not None:
        gaussian_triangle_(gram, torch.from_numpy(inverse), gamma)
        scale = r
    mirror(gram.numpy())
    return _Kernel(gram.numpy(), scale, r * r, inverse, weights, exponent, gamma)


def lower_gram(x: Tensor) -> Tensor:
    """``X Xᵀ`` (n, n) of x (n, D), stripe by stripe of its lower triangle; beyond the stripes it is undefined."""
    n = x.shape[0]
    gram = x.new_empty(n, n)

    def multiply(stripe: tuple[int, int]) -> None:
        first, last = stripe
        gram[first:last, :last] = products(x[first:last], x[:last])

    each(multiply, _stripes(n))
    return gram


def gaussian_triangle_(gram: Tensor, inverse: Tensor, gamma: float) -> None:
    """The Gaussian kernel in the place of the products in the lower triangle; ``inverse`` (n,) is ``1 / ‖X‖``."""

    def transform(stripe: tuple[int, int]) -> None:
        first, last = stripe
        gaussian_(gram[first:last, :last].mul_(inverse[first:last, None]).mul_(inverse[:last]), gamma)

    each(transform, _stripes(len(gram)))


def _stripes(n: int) -> list[tuple[int, int]]:
    """First row and end of each, the widest first."""
    height = STRIPE * max(1, n // (8 * STRIPE))
    return [(first, min(first + height, n)) for first in reversed(range(0, n, height))]


def _greedy(kernel: _Kernel, count: int, exhausted: str, traced: bool) -> tuple[Tensor, Tensor]:
    """At most ``count`` positions in the segment, in greedy order, and their trace as in :class:`Picks`."""
    picks, trace = np.empty(count, np.int64), np.zeros((count if traced else 0, 2))
    factor, diagonal = EXHAUSTION_FACTOR * np.finfo(kernel.diagonal.dtype).eps, kernel.diagonal.copy()
    found = fresh = greedy(kernel.values, kernel.scale, diagonal, factor, picks, trace)
    while exhausted == "restart" and fresh > 0 and found < count:
        diagonal[picks[found - fresh : found]] = 0
        fresh = greedy(kernel.values, kernel.scale, diagonal, factor, picks[found:], trace[found:])
        found += fresh
    if traced:
        # Twice, as the square of the power of two could overflow where the gain does not.
        trace[:, 0] = np.ldexp(np.ldexp(trace[:, 0], kernel.exponent), kernel.exponent)
    if exhausted != "stop" and found < count:
        free = np.ones(len(diagonal), bool)
        free[picks[:found]] = False
        rest = np.flatnonzero(free)
        picks[found:] = rest[np.argsort(-kernel.weights[rest], kind="stable")][: count - found]
        found = count
    return torch.from_numpy(picks[:found]), torch.from_numpy(trace[:found])


def _most_similar(kernel: _Kernel, picks: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) int64 position of each token's most similar pick, itself for a pick; (n,) float32 their cosine."""
    kept = picks.sort().values
    values = torch.from_numpy(kernel.values)[kept]
    if kernel.gamma is None:
        values = values * torch.from_numpy(kernel.inverse)[kept, None] * torch.from_numpy(kernel.inverse)
    best = values.max(dim=0)
    place, cosine = kept[best.indices], best.values
    if kernel.gamma is not None:
        cosine = 1 + cosine.log() / (2 * kernel.gamma)
    place[kept], cosine[kept] = kept, 1.0
    return place, cosine.float()
