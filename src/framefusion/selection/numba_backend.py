"""Greedy MAP on the CPU by compiled code, parallel over segments, or over the blocks of a long one.

The code runs in plain threads on functions that release the GIL, not in Numba's ``prange``: Numba's OpenMP layer does
not survive ``fork`` and its workqueue layer must not be entered from two threads, while threads that live for one call
have neither problem. At most ``torch.get_num_threads()`` threads run; they take segments off one counter, the longest
first, so ragged segments neither pad each other nor keep a thread waiting. The features are read where they are:
contiguous or not, half precision or not, there is no copy of more than a panel of :mod:`cpu_kernels`.

The functions are compiled at the first call for a dtype (seconds) and kept in Numba's on-disk cache, which is keyed by
their file, the CPU and Numba's version; :func:`warm_up` does it ahead of time.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framefusion.selection import cpu_kernels as kernels
from framefusion.selection.gram import NonFiniteFeaturesError
from framefusion.selection.numerics import EXHAUSTION_FACTOR, accumulation_dtype, safe_square_range
from framefusion.selection.plan import Picks, Segment

WORK_PER_THREAD = 1 << 24
"""Multiply–adds below which another thread costs more than it saves."""

_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}
_HALVES = {torch.bfloat16: kernels.BFLOAT16, torch.float16: kernels.FLOAT16}

_spare: list[np.ndarray] = []
"""Scratch memory that no thread uses just now; never more than were in use at once."""


def select(
    features: Tensor,
    relevance: Tensor | None,
    segments: Sequence[Segment],
    early_stop: bool,
    check_finite: bool,
    traced: bool,
) -> list[Picks]:
    """What each segment of a sample keeps.

    Args:
        features: (N, D) on the CPU, any float dtype.
        relevance: (N,) float64 on the CPU, or None for uniform relevance.
        segments: their Gram matrices are held one at a time for each thread, so none should be too long for that.
        early_stop: return fewer tokens where all candidates are exhausted, instead of filling up.
        check_finite: look at the norms: raise for NaN and Inf, and rescale rows whose squares leave the range of the
            accumulation dtype. Without it such rows count as zero vectors.
        traced: return gains and novelty too.

    Raises:
        NonFiniteFeaturesError: NaN or Inf in a row of a segment (only with ``check_finite``).
    """
    wanted = [s for s in segments if s.count > 0]
    if not wanted:
        nothing = Picks(
            torch.empty(0, dtype=torch.int64, device="cpu"), torch.zeros(0, 2, dtype=torch.float64, device="cpu")
        )
        return [nothing if traced else nothing._replace(trace=None) for _ in segments]
    read = _features(features)
    weights = np.empty(0) if relevance is None else relevance.contiguous().numpy()
    plan = _segments(wanted)
    total = int(plan.counts.sum())
    chosen, trace = np.empty(total, np.int64), np.zeros((total if traced else 0, 2))
    result = kernels.Result(chosen, np.empty(len(wanted), np.int64), trace)
    dtype = accumulation_dtype(features.dtype)
    low, high = safe_square_range(dtype) if check_finite else (1.0, 0.0)
    limits = (low, high, EXHAUSTION_FACTOR * torch.finfo(dtype).eps)
    lengths = np.diff(plan.starts)
    for s in np.flatnonzero(lengths > kernels.BLOCK):
        _select_long(read, weights, plan, int(s), early_stop, limits, result)
    short = np.flatnonzero(lengths <= kernels.BLOCK)
    if len(short):
        order = short[np.argsort(-lengths[short], kind="stable")]
        counter = np.zeros(1, np.int64)
        work = int((lengths[short] ** 2).sum()) * features.shape[1] // 2
        _in_threads(
            min(len(short), work // WORK_PER_THREAD),
            lambda scratch: kernels.select_short(
                read, weights, plan, order, early_stop, limits, result, scratch, counter
            ),
        )
    if bool((result.found < 0).any()):
        raise NonFiniteFeaturesError
    found = iter(zip(plan.firsts.tolist(), result.found.tolist(), strict=True))
    parts = [next(found) if s.count > 0 else (0, 0) for s in segments]
    picks, gains = torch.from_numpy(chosen), torch.from_numpy(trace)
    return [Picks(picks[at : at + n], gains[at : at + n] if traced else None) for at, n in parts]


def greedy_map(kernel: Tensor, diagonal: Tensor, count: int) -> Tensor:
    """Greedy MAP of one determinantal point process.

    Args:
        kernel: (n, n) float32 or float64 on the CPU, symmetric; its lower triangle is read.
        diagonal: (n,) exact diagonal, same dtype; 0 excludes a candidate.
        count: picks wanted, at most n.

    Returns:
        (count,) int64 in greedy order, −1 after the last pick.
    """
    picks = np.full(count, -1)
    factor = EXHAUSTION_FACTOR * torch.finfo(kernel.dtype).eps
    scale, nothing = np.ones(len(diagonal), _NUMPY[kernel.dtype]), np.empty((0, 2))
    kernels.greedy(kernel.contiguous().numpy(), scale, diagonal.contiguous().numpy(), factor, picks, nothing)
    return torch.from_numpy(picks)


def warm_up(dtype: torch.dtype) -> None:
    """Compile everything for features of ``dtype``."""
    one = torch.ones(kernels.BLOCK + 1, 1, dtype=dtype, device="cpu")
    rows = torch.arange(len(one), device="cpu")
    for n in (1, len(one)):
        select(one, None, [Segment(0, rows[:n], 1, 0)], False, True, False)


def _features(features: Tensor) -> kernels.Features:
    if features.stride(1) != 1 and features.shape[1] > 1:
        features = features.contiguous()
    stride, dim = features.stride(0), features.shape[1]
    flat = features.as_strided(((features.shape[0] - 1) * stride + dim,), (1,))
    dtype = _NUMPY[accumulation_dtype(features.dtype)]
    if features.dtype in _NUMPY:
        return kernels.Features(flat.numpy(), np.empty(0, np.uint16), kernels.PLAIN, stride, dim)
    how = _HALVES[features.dtype]
    if how == kernels.BFLOAT16 and _amx_allowed():
        how = kernels.BFLOAT16_AMX
    return kernels.Features(np.empty(0, dtype), flat.view(torch.uint16).numpy(), how, stride, dim)


def _segments(segments: Sequence[Segment]) -> kernels.Segments:
    counts = np.array([s.count for s in segments])
    ends = np.cumsum([len(s) for s in segments])
    rows = segments[0].rows if len(segments) == 1 else torch.cat([s.rows for s in segments])
    return kernels.Segments(rows.contiguous().numpy(), np.append(0, ends), counts, np.cumsum(counts) - counts)


def _select_long(
    read: kernels.Features,
    weights: np.ndarray,
    plan: kernels.Segments,
    s: int,
    early_stop: bool,
    limits: tuple[float, float, float],
    result: kernels.Result,
) -> None:
    """One segment of more than a block: all threads on its Gram matrix, then one on the greedy loop."""
    rows = plan.rows[plan.starts[s] : plan.starts[s + 1]]
    size = -(-len(rows) // kernels.ROW_MULTIPLE) * kernels.ROW_MULTIPLE
    gram = np.empty((size, size), read.numbers.dtype)
    counter = np.zeros(1, np.int64)
    blocks = -(-len(rows) // kernels.BLOCK)
    _in_threads(
        min(blocks * (blocks + 1) // 2, len(rows) ** 2 * read.dim // 2 // WORK_PER_THREAD),
        lambda scratch: kernels.gram_blocks(read, rows, gram, scratch, counter),
    )
    _in_threads(
        1,
        lambda scratch: kernels.select_long(read, weights, plan, s, early_stop, limits, gram, result, scratch),
    )


def _in_threads(useful: int, work: Callable[[np.ndarray], Any]) -> None:
    """Run ``work`` in this thread and as many more as are useful and allowed, each with scratch memory of its own."""
    threads = max(1, min(torch.get_num_threads(), useful))
    scratches = [_take_scratch() for _ in range(threads)]
    helpers = [threading.Thread(target=work, args=(scratch,)) for scratch in scratches[1:]]
    for helper in helpers:
        helper.start()
    work(scratches[0])
    for helper in helpers:
        helper.join()
    _spare.extend(scratches)


def _take_scratch() -> np.ndarray:
    try:
        return _spare.pop()
    except IndexError:
        return kernels.make_scratch()


@functools.cache
def _amx_allowed() -> bool:
    """Whether this process may use AMX's tiles, which Linux grants on request, to all its threads."""
    if not kernels.AMX or platform.system() != "Linux":
        return False
    system_call, request_permission, tile_data = 158, 0x1023, 18
    return ctypes.CDLL(None).syscall(system_call, request_permission, tile_data) == 0
