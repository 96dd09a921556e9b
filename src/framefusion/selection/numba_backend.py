"""Greedy MAP on the CPU by compiled code, parallel over segments, or over the blocks of a long one.

The code runs in torch's own threads (:mod:`threads`) on functions that release the GIL, not in Numba's ``prange``:
Numba's OpenMP layer does not survive ``fork``, its workqueue layer must not be entered from two threads, and both would
have threads beside torch's. At most ``torch.get_num_threads()`` run; they take segments (of long ones, parts) off one
counter, the longest first, so ragged segments neither pad each other nor keep a thread waiting. The features are read
where they are: contiguous or not, half precision or not, there is no copy of more than a panel of :mod:`cpu_kernels`.

The functions are compiled at the first call for a dtype (seconds) and kept in Numba's on-disk cache, which is keyed by
their file, the CPU and Numba's version; :func:`warm_up` does it ahead of time.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba.core import event
from torch import Tensor

from framefusion.selection import cpu_kernels as kernels
from framefusion.selection import gram_schmidt, threads
from framefusion.selection.gram import NonFiniteFeaturesError
from framefusion.selection.gram_schmidt import Rows, direction
from framefusion.selection.numerics import (
    EXHAUSTION_FACTOR,
    accumulation_dtype,
    exhaustion_threshold,
    safe_square_range,
)
from framefusion.selection.plan import Picks, Segment

logger = logging.getLogger(__name__)

WORK_PER_THREAD = 1 << 24
"""Multiply–adds below which another thread costs more than it saves."""

_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}
_HALVES = {torch.bfloat16: kernels.BFLOAT16, torch.float16: kernels.FLOAT16}

GRAM_BYTES = 64 << 20
"""Gram matrices of long segments of at most this many bytes are held at once; a single longer one may exceed it."""

_EXHAUSTED = {"fill": kernels.FILL, "stop": kernels.STOP, "restart": kernels.RESTART}

_spare: list[np.ndarray] = []
"""Scratch memory that no thread uses just now; never more than were in use at once."""


class _Announcement(event.Listener):
    """Says once in a process that the kernels are being compiled: whoever waits for them should know why.

    Numba tells of what it compiles, not of what it loads from its cache.
    """

    said = False

    def on_start(self, told: Any) -> None:
        if self.said or told.data["dispatcher"].py_func.__module__ != kernels.__name__:
            return
        self.said = True
        logger.info(
            "Compiling the selection for this processor, which can take a minute; Numba's cache keeps it for later "
            "processes."
        )

    def on_end(self, told: Any) -> None:
        pass


announcement = _Announcement()
event.register("numba:compile", announcement)


@dataclass(frozen=True)
class _Job:
    """What all threads share."""

    features: kernels.Features
    relevance: np.ndarray
    segments: kernels.Segments
    exhausted: int
    limits: tuple[float, float, float, float]
    result: kernels.Result


def select(
    features: Tensor,
    relevance: Tensor | None,
    segments: Sequence[Segment],
    exhausted: str,
    check_finite: bool,
    traced: bool,
    gamma: float | None = None,
) -> list[Picks]:
    """What each segment of a sample keeps.

    Args:
        features: (N, D) on the CPU, any float dtype.
        relevance: (N,) float64 on the CPU, or None for uniform relevance.
        segments: the Gram matrix of the longest must fit the memory.
        exhausted: "fill", "stop" or "restart", see :func:`~framefusion.selection.api.select_tokens`.
        check_finite: look at the norms: raise for NaN and Inf, and rescale rows whose squares leave the range of the
            accumulation dtype. Without it such rows count as zero vectors.
        traced: return gains and novelty too.
        gamma: of the Gaussian kernel, None for cosines.

    Raises:
        NonFiniteFeaturesError: NaN or Inf in a row of a segment (only with ``check_finite``).
    """
    wanted = [s for s in segments if s.count > 0]
    job = _run(features, relevance, wanted, exhausted, check_finite, traced, False, gamma)
    found = iter(zip(job.segments.firsts.tolist(), job.result.found.tolist(), strict=True))
    parts = [next(found) if s.count > 0 else (0, 0) for s in segments]
    picks, trace = torch.from_numpy(job.result.picks), torch.from_numpy(job.result.trace)
    return [Picks(picks[at : at + n], trace[at : at + n] if traced else None) for at, n in parts]


def select_and_assign(
    features: Tensor,
    relevance: Tensor | None,
    segments: Sequence[Segment],
    exhausted: str,
    check_finite: bool,
    gamma: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Select, and find the kept token that each of the others is most similar to, from the same Gram matrices.

    Args:
        As for :func:`select`.

    Returns:
        (K,) int64 kept tokens; (N,) int64 the most similar token that its segment keeps (itself for a kept one, ties to
        the earliest), −1 where it keeps none; (N,) float32 their cosine, −Inf where there is none.
    """
    wanted = [s for s in segments if s.count > 0]
    job = _run(features, relevance, wanted, exhausted, check_finite, False, True, gamma)
    picks = torch.from_numpy(job.result.picks)
    parts = [picks[at : at + n] for at, n in zip(job.segments.firsts.tolist(), job.result.found.tolist(), strict=True)]
    nearest = torch.full((len(features),), -1, dtype=torch.int64, device="cpu")
    similarity = torch.full((len(features),), -torch.inf, dtype=torch.float32, device="cpu")
    rows = torch.from_numpy(job.segments.rows)
    nearest[rows], similarity[rows] = torch.from_numpy(job.result.nearest), torch.from_numpy(job.result.similarity)
    return torch.cat([picks[:0], *parts]), nearest, similarity


def _run(
    features: Tensor,
    relevance: Tensor | None,
    segments: Sequence[Segment],
    exhausted: str,
    check_finite: bool,
    traced: bool,
    assigned: bool,
    gamma: float | None,
) -> _Job:
    plan = _segments(segments)
    kept, dtype = int(plan.counts.sum()), accumulation_dtype(features.dtype)
    present = len(plan.rows) if assigned else 0
    result = kernels.Result(
        np.empty(kept, np.int64),
        np.empty(len(segments), np.int64),
        np.zeros((kept if traced else 0, 2)),
        np.empty(present, np.int64),
        np.empty(present, np.float32),
    )
    low, high = safe_square_range(dtype) if check_finite else (1.0, 0.0)
    job = _Job(
        _features(features),
        np.empty(0) if relevance is None else relevance.contiguous().numpy(),
        plan,
        _EXHAUSTED[exhausted],
        (low, high, EXHAUSTION_FACTOR * torch.finfo(dtype).eps, gamma or 0.0),
        result,
    )
    lengths = np.diff(plan.starts)
    by_length = np.argsort(-lengths, kind="stable")
    _select_short(job, by_length[lengths[by_length] <= kernels.BLOCK])
    _select_long(job, by_length[lengths[by_length] > kernels.BLOCK].tolist())
    if bool((result.found < 0).any()):
        raise NonFiniteFeaturesError
    return job


def _select_short(job: _Job, order: np.ndarray) -> None:
    """Segments of a block at most: each is one thread's, from its Gram matrix to its picks."""
    if not len(order):
        return
    counter = np.zeros(1, np.int64)
    work = int((np.diff(job.segments.starts)[order] ** 2).sum()) * job.features.dim // 2
    _in_threads(
        min(len(order), work // WORK_PER_THREAD),
        lambda scratch: kernels.select_short(
            job.features, job.relevance, job.segments, order, job.exhausted, job.limits, job.result, scratch, counter
        ),
    )


def _select_long(job: _Job, order: Sequence[int]) -> None:
    """Longer segments: all threads work at the blocks of a few Gram matrices, one of them selects where all blocks are
    done, and its memory goes to the next segment. What fits GRAM_BYTES is held at once."""
    if not order:
        return
    lengths = np.diff(job.segments.starts)
    sizes = (-(-lengths // kernels.ROW_MULTIPLE) * kernels.ROW_MULTIPLE) ** 2
    fitting = int((np.cumsum(sizes[order]) * job.features.numbers.itemsize <= GRAM_BYTES).sum())
    # One more than there are threads, so that few wait for a selection to end.
    threads = torch.get_num_threads()
    held = max(1, min(fitting, threads + 1 if threads > 1 else 1, len(order)))
    places = np.cumsum(sizes[order[:held]]) - sizes[order[:held]]
    offsets, after, pending = (np.full(len(lengths), value, np.int64) for value in (0, -1, 0))
    tasks: list[tuple[int, int, int]] = []
    lag = int(held > 1)
    for t in range(len(order) + lag):
        if t < len(order):
            s, blocks = order[t], -(-int(lengths[order[t]]) // kernels.BLOCK)
            offsets[s] = places[t % held]
            after[s] = order[t - held] if t >= held else -1
            pending[s] = blocks * (blocks + 1) // 2
            tasks += [(s, i, j) for i in range(blocks) for j in range(i + 1)]
        if t >= lag:
            tasks.append((order[t - lag], -1, -1))
    memory = np.empty(int(sizes[order[:held]].sum()), job.features.numbers.dtype)
    shared = kernels.Shared(np.array(tasks, np.int64), memory, offsets, after, pending, np.zeros(1, np.int64))
    counter = np.zeros(1, np.int64)

    def work(scratch: np.ndarray) -> None:
        try:
            kernels.select_shared(
                job.features,
                job.relevance,
                job.segments,
                shared,
                job.exhausted,
                job.limits,
                job.result,
                scratch,
                counter,
            )
        except BaseException:
            # Nobody may go on waiting for what is never done.
            shared.failed[0] = 1
            raise

    _in_threads(len(tasks), work)


def greedy_map(kernel: Tensor, diagonal: Tensor, count: int) -> Tensor:
    """Greedy MAP of one determinantal point process.

    Args:
        kernel: (n, n) float32 or float64 on the CPU, symmetric.
        diagonal: (n,) exact diagonal, same dtype; 0 excludes a candidate.
        count: picks wanted, at most n.

    Returns:
        (count,) int64 in greedy order, −1 after the last pick.
    """
    picks = np.full(count, -1)
    factor = EXHAUSTION_FACTOR * torch.finfo(kernel.dtype).eps
    scale, nobody, nothing = np.ones(len(diagonal), _NUMPY[kernel.dtype]), np.empty(0, np.int64), np.empty((0, 2))
    gram, own, ties = kernel.contiguous().numpy(), diagonal.contiguous().numpy(), np.arange(len(diagonal))
    kernels.greedy(gram, nobody, ties, scale, own, factor, picks, nothing)
    return torch.from_numpy(picks)


def gram_schmidt_greedy(x: Rows, scale: Tensor, diagonal: Tensor, count: int, trace: Tensor | None) -> Tensor:
    """Pivoted Gram–Schmidt on rows that are not all read at every step, with the arguments and the
    result of :func:`gram_schmidt.greedy_everywhere`.

    Reading all features at every step would be bound by the memory. Gains never increase, so an old gain is a bound for
    the present one: the rows stand in blocks, and a block catches up with the steps it missed, all in one reading, only
    when the largest of its old gains is the largest of all. That is exact.
    """
    read, rows, n = _features(x.features), x.rows.numpy(), len(diagonal)
    steps, zeros = min(count, read.dim), np.zeros
    number, blocks = read.numbers.dtype, -(-n // kernels.LAZY_ROWS)
    directions = zeros((steps + kernels.TILE_COLUMNS, -(-read.dim // 64) * 64), number)
    state = kernels.LazyGains(
        diagonal.numpy().copy(),
        diagonal.numpy(),
        exhaustion_threshold(diagonal).numpy(),
        scale.numpy(),
        x.exponents().numpy(),
        directions,
        np.full(blocks, -1),
        np.full(blocks, np.inf, number),
        zeros(blocks, np.int64),
        np.full(blocks, np.inf, number),
    )
    known = torch.from_numpy(directions)[:steps, : read.dim]
    picks = torch.full((count,), -1, dtype=torch.int64, device="cpu")
    scratch = _take_scratch()
    for t in range(steps):
        j, best, novelty = kernels.next_pick(read, rows, state, t, trace is not None, scratch)
        if not best > 0:
            break
        if trace is not None:
            trace[t, 0], trace[t, 1] = float(best), float(novelty)
        picks[t] = j
        state.threshold[j] = np.inf
        known[t] = direction(x.row(picks[t]) * scale[j], known[:t])
    _spare.append(scratch)
    return picks


def warm_up(dtype: torch.dtype) -> None:
    """Compile everything for features of ``dtype``."""
    one = torch.ones(kernels.BLOCK + 1, 1, dtype=dtype, device="cpu")
    rows = torch.arange(len(one), device="cpu")
    for n in (1, len(one)):
        select(one, None, [Segment(0, rows[:n], 1, 0)], "fill", True, False)
    gram_schmidt.select_segment(one, None, Segment(0, rows, 1, 0), False, True, False, gram_schmidt_greedy)


def _features(features: Tensor) -> kernels.Features:
    features = features.resolve_neg()
    if not features.numel() or (features.stride(1) != 1 and features.shape[1] > 1):
        features = features.contiguous()
    stride, dim = features.stride(0), features.shape[1]
    size = (features.shape[0] - 1) * stride + dim if features.numel() else 0
    flat = features.as_strided((size,), (1,))
    dtype = _NUMPY[accumulation_dtype(features.dtype)]
    if features.dtype in _NUMPY:
        return kernels.Features(flat.numpy(), np.empty(0, np.uint16), kernels.PLAIN, stride, dim)
    how = _HALVES[features.dtype]
    if how == kernels.BFLOAT16 and _amx_allowed():
        how = kernels.BFLOAT16_AMX
    return kernels.Features(np.empty(0, dtype), flat.view(torch.uint16).numpy(), how, stride, dim)


def _segments(segments: Sequence[Segment]) -> kernels.Segments:
    counts = np.array([s.count for s in segments], np.int64)
    ends = np.cumsum([len(s) for s in segments], dtype=np.int64)
    rows = torch.cat([torch.empty(0, dtype=torch.int64, device="cpu"), *[s.rows for s in segments]])
    return kernels.Segments(rows.contiguous().numpy(), np.append(0, ends), counts, np.cumsum(counts) - counts)


def _in_threads(useful: int, work: Callable[[np.ndarray], Any]) -> None:
    """Run ``work`` in this thread and as many more as are useful and allowed, each with scratch memory of its own."""
    count = max(1, min(torch.get_num_threads(), useful))
    scratches = [_take_scratch() for _ in range(count)]
    own = iter(scratches)
    threads.run(lambda: work(next(own)), count)
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
