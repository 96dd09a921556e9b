"""Greedy MAP on the CPU: the Gram matrices by torch, then one compiled loop, parallel over segments.

The loop runs in plain threads on a function that releases the GIL, not in Numba's ``prange``: Numba's OpenMP
layer does not survive ``fork`` and its workqueue layer must not be entered from two threads, while threads
that live for one call have neither problem. At most ``torch.get_num_threads()`` threads run.

The function is compiled at the first call for a dtype (seconds) and kept in Numba's on-disk cache, which is
keyed by this file, the CPU and Numba's version; :func:`warm_up` does it ahead of time.
"""

from __future__ import annotations

import logging
import threading
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from framefusion.selection.gram import Bucket, segment_kernels
from framefusion.selection.numerics import exhaustion_threshold, fill_exhausted, unscale_trace
from framefusion.selection.plan import Picks

# Compiling logs thousands of DEBUG records, which would drown ours where the root logger is at DEBUG.
if logging.getLogger("numba").level == logging.NOTSET:
    logging.getLogger("numba").setLevel(logging.WARNING)

WORK_PER_THREAD = 1 << 24
"""Multiply–adds below which another thread costs more than it saves."""


def select_bucket(
    features: Tensor, relevance: Tensor | None, bucket: Bucket, early_stop: bool, check_finite: bool, traced: bool
) -> list[Picks]:
    """What each segment of the bucket keeps; arguments as in :func:`gram.segment_kernels`."""
    k = segment_kernels(features, relevance, bucket, check_finite)
    trace = k.diagonal.new_zeros(len(k.diagonal), int(k.counts.max()), 2) if traced else None
    picks = greedy_map(k.gram, k.scale, k.diagonal, k.lengths, k.counts, trace)
    greedy = (picks >= 0).sum(dim=1)
    if early_stop:
        kept = greedy.tolist()
        picks = picks.clamp(min=0)
    else:
        kept = k.counts.tolist()
        if bool((greedy < k.counts).any()):
            picks = fill_exhausted(picks, k.fill_relevance, k.lengths, k.counts)
        else:
            picks = picks.clamp(min=0)
    rows = k.rows.gather(1, picks)
    table = None if trace is None else unscale_trace(trace, k.fill_relevance)
    return [Picks(rows[s, :n], None if table is None else table[s, :n]) for s, n in enumerate(kept)]


def greedy_map(
    gram: Tensor, scale: Tensor, diagonal: Tensor, lengths: Tensor, counts: Tensor, trace: Tensor | None = None
) -> Tensor:
    """Greedy MAP of S determinantal point processes, ``L[i, j] = gram[i, j] · scale[i] · scale[j]``.

    Args:
        gram: (S, w, w) float32 or float64 on the CPU.
        scale: (S, w), same dtype.
        diagonal: (S, w) exact L[i, i], same dtype; 0 excludes a candidate.
        lengths: (S,) int64, valid candidates of each.
        counts: (S,) int64, picks wanted of each, at most its length.
        trace: (S, max count, 2) zeros, same dtype, to be filled with each pick's gain and the novelty before it, see
            :class:`~framefusion.selection.plan.Picks`; None does not ask for them.

    Returns:
        (S, max count) int64 in greedy order, −1 after the last pick of each.
    """
    size, _ = diagonal.shape
    picks = torch.full((size, int(counts.max())), -1, device="cpu")
    threshold = exhaustion_threshold(diagonal)
    noted = diagonal.new_empty(0, 0, 2) if trace is None else trace
    arrays = [t.detach().numpy() for t in (gram, scale, diagonal, threshold, lengths, counts, picks, noted)]
    work = int((counts * counts * lengths).sum())
    threads = max(1, min(torch.get_num_threads(), size, work // WORK_PER_THREAD))
    bounds = [size * i // threads for i in range(threads + 1)]
    helpers = [threading.Thread(target=_compiled, args=(*arrays, start, stop)) for start, stop in pairwise(bounds[1:])]
    for helper in helpers:
        helper.start()
    _compiled(*arrays, bounds[0], bounds[1])
    for helper in helpers:
        helper.join()
    return picks


def warm_up(dtype: torch.dtype) -> None:
    """Compile the loop for an accumulation dtype."""
    one = torch.ones(1, 1, dtype=dtype, device="cpu")
    count = torch.ones(1, dtype=torch.int64, device="cpu")
    greedy_map(one[None], one, one, count, count)


def _greedy_segments(
    gram: np.ndarray,
    scale: np.ndarray,
    diagonal: np.ndarray,
    threshold: np.ndarray,
    lengths: np.ndarray,
    counts: np.ndarray,
    picks: np.ndarray,
    trace: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Fill ``picks[start:stop]``, and ``trace[start:stop]`` if it is not empty; Chen, Zhang & Zhou, Algorithm 1."""
    most, width = 0, 0
    for s in range(start, stop):
        most = max(most, counts[s])
        width = max(width, lengths[s])
    cholesky = np.empty((most, width), gram.dtype)
    gain = np.empty(width, gram.dtype)
    for s in range(start, stop):
        n = lengths[s]
        for i in range(n):
            gain[i] = diagonal[s, i]
        for t in range(counts[s]):
            j = -1
            best = gain.dtype.type(0)
            for i in range(n):
                if gain[i] > best and gain[i] > threshold[s, i]:
                    best = gain[i]
                    j = i
            if j < 0:
                break
            picks[s, t] = j
            if trace.shape[0] > 0:
                novelty = gain.dtype.type(0)
                for i in range(n):
                    if diagonal[s, i] > 0 and gain[i] > novelty * diagonal[s, i]:
                        novelty = gain[i] / diagonal[s, i]
                trace[s, t, 0] = best
                trace[s, t, 1] = novelty
            if t + 1 == counts[s]:
                break
            update = cholesky[t]
            for i in range(n):
                update[i] = gram[s, j, i] * scale[s, j] * scale[s, i]
            for p in range(t):
                chosen = cholesky[p, j]
                for i in range(n):
                    update[i] -= chosen * cholesky[p, i]
            inverse = 1 / np.sqrt(best)
            for i in range(n):
                update[i] *= inverse
                gain[i] -= update[i] * update[i]
            gain[j] = 0


def _compile(function: Any) -> Any:
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        # Neither the package's nor the user's cache directory can be written: compile in each process.
        return numba.njit(nogil=True)(function)


_compiled: Any = _compile(_greedy_segments)
