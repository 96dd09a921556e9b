"""The greedy loop of the CPU backend, compiled by Numba. Plain loops: slow references are
:func:`framefusion.selection.reference.greedy_map` and, in torch, :func:`torch_backend.greedy_map`."""

from __future__ import annotations

import logging
from typing import Any

import numba
import numpy as np

# Compiling logs thousands of DEBUG records, which would drown ours where the root logger is at DEBUG.
if logging.getLogger("numba").level == logging.NOTSET:
    logging.getLogger("numba").setLevel(logging.WARNING)

WIDTH = 256
"""Candidates of a block: a row of one, and its gains, stay in the first-level cache."""

SIDE = 32
"""Side of the squares in which a matrix is mirrored."""


def _compile(function: Any) -> Any:
    # A product and its sum may be fused, nothing else is reordered.
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        # Neither the package's nor the user's cache directory can be written: compile in each process.
        return numba.njit(**options)(function)


@_compile
def mirror(matrix):  # type: ignore[no-untyped-def]
    """Copy the lower triangle of ``matrix`` (n, n) to the upper one, a square that fits the cache at a time."""
    n = len(matrix)
    for left in range(0, n, SIDE):
        for top in range(left, n, SIDE):
            for j in range(left, min(left + SIDE, n)):
                begin, end = max(top, j + 1), min(top + SIDE, n)
                target, column = matrix[j, begin:end], matrix[begin:end, j]
                for i in range(len(target)):
                    target[i] = column[i]


@_compile
def subtract(row, factors, rows, count):  # type: ignore[no-untyped-def]
    """``row −= Σ_u factors[u] · rows[u]`` over the first ``count`` rows, always in this order; four at a time, so that
    ``row`` (w,) is read and written a quarter as often."""
    u = 0
    while u + 4 <= count:
        a0, a1, a2, a3 = factors[u], factors[u + 1], factors[u + 2], factors[u + 3]
        r0, r1, r2, r3 = rows[u], rows[u + 1], rows[u + 2], rows[u + 3]
        for i in range(len(row)):
            row[i] = row[i] - a0 * r0[i] - a1 * r1[i] - a2 * r2[i] - a3 * r3[i]
        u += 4
    for v in range(u, count):
        factor, other = factors[v], rows[v]
        for i in range(len(row)):
            row[i] -= factor * other[i]


@_compile
def greedy(kernel, scale, diagonal, factor, picks, trace):  # type: ignore[no-untyped-def]
    """Greedy MAP of ``L[i, j] = kernel[i, j] · scale[i] · scale[j]`` (Chen, Zhang & Zhou 2018, Algorithm 1).

    Gains never increase, so an old gain is an upper bound of the present one. The candidates stand in blocks, and a
    block catches up with the steps it missed only when its largest old gain is the largest of all. That is exact: the
    arithmetic of a candidate does not depend on when it is done.

    Args:
        kernel: (n, n) float32 or float64, symmetric.
        scale: (n,), same dtype.
        diagonal: (n,) exact L[i, i], same dtype; 0 excludes a candidate.
        factor: a candidate is exhausted once its gain is at most this times its diagonal.
        picks: (k,) int64, filled in greedy order; ties go to the lowest index.
        trace: (k, 2) float64, filled with each pick's gain and the novelty before it, see
            :class:`~framefusion.selection.plan.Picks`; (0, 2) to leave out.

    Returns:
        How many picks were made before all candidates were exhausted.
    """
    n, count = len(diagonal), len(picks)
    blocks, zero = (n + WIDTH - 1) // WIDTH, diagonal.dtype.type(0)
    gain, threshold = diagonal.copy(), diagonal * diagonal.dtype.type(factor)
    # Rows of the Cholesky factor, block by block, and the columns of the picks: what is needed to extend it.
    rows = np.empty((blocks, count, min(n, WIDTH)), diagonal.dtype)
    columns, inverse = np.empty((count, count), diagonal.dtype), np.empty(count, diagonal.dtype)
    # Each block as of the step it is at: its largest gain, that candidate, its largest novelty.
    step, place = np.full(blocks, -1), np.zeros(blocks, np.int64)
    best, novelty = np.full(blocks, np.inf, diagonal.dtype), np.full(blocks, np.inf, diagonal.dtype)
    for t in range(count):
        while True:
            b = np.argmax(best)
            if step[b] == t and len(trace) > 0:
                # The novelty must be of this step too.
                newest = np.argmax(novelty)
                if step[newest] < t:
                    b = newest
            if step[b] == t:
                break
            first, last = b * WIDTH, min((b + 1) * WIDTH, n)
            # Slices: sums of indices are guarded against negative values, which keeps loops from being vectorised.
            own, diag, floor, weight = gain[first:last], diagonal[first:last], threshold[first:last], scale[first:last]
            for s in range(max(step[b], 0), t):
                row, line, p = rows[b, s, : last - first], kernel[picks[s], first:last], scale[picks[s]]
                for i in range(len(row)):
                    row[i] = line[i] * (weight[i] * p)
                subtract(row, columns[s], rows[b], s)
                for i in range(len(row)):
                    row[i] *= inverse[s]
                    own[i] -= row[i] * row[i]
            top, at, most = zero, first, zero
            for i in range(len(own)):
                if own[i] > floor[i] and own[i] > top:
                    top, at = own[i], first + i
                if floor[i] < np.inf and diag[i] > 0 and own[i] > most * diag[i]:
                    most = own[i] / diag[i]
            step[b], best[b], place[b], novelty[b] = t, top, at, most
        if not best[b] > 0:
            return t
        if len(trace) > 0:
            trace[t, 0], trace[t, 1] = best[b], novelty.max()
        j = place[b]
        picks[t], threshold[j], inverse[t] = j, np.inf, 1 / np.sqrt(best[b])
        for s in range(t):
            columns[t, s] = rows[b, s, j - b * WIDTH]
    return count
