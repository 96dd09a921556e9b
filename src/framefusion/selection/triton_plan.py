"""What the Triton kernels are told about the segments, on the device.

Everything that depends on segments and budgets but not on the features is computed once on the host and sent in one
copy; with it a selection neither reads from nor writes to the host, and can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from framefusion.selection.plan import LONG_SEGMENT, Segment
from framefusion.selection.triton_kernels import RESIDENT, ROW_TILE, STEP_TILE, gram_options

GRAM_BYTES = 256 << 20
"""Gram matrices of at most this many bytes are held at once; a single longer segment may exceed it."""


@dataclass(frozen=True)
class Place:
    """One non-empty segment of one sample, and where its arrays are.

    Attributes:
        sample: which sample.
        segment: the segment.
        first: where its tokens start in the per-token arrays.
        picks: where its picks start.
    """

    sample: int
    segment: Segment
    first: int
    picks: int


@dataclass(frozen=True)
class Group:
    """Segments that share launches.

    Attributes:
        places: S segments.
        table: (S, 9) int64, see :mod:`framefusion.selection.triton_kernels`.
        pairs: (P, 3) int64: segment, row and column of each tile of the Gram matrices; P = 0 without matrices.
        tiles: (Q, 2) int64: segment and tile of each program of a step; Q = 0 where one program has the segment.
        width: length of the longest.
        steps: most picks of one.
        gram_size, state_size: elements of the Gram matrices, and of the Cholesky rows or directions.
    """

    places: tuple[Place, ...]
    table: Tensor
    pairs: Tensor
    tiles: Tensor
    width: int
    steps: int
    gram_size: int
    state_size: int

    @property
    def has_gram(self) -> bool:
        """Whether its segments have Gram matrices."""
        return len(self.pairs) > 0

    @property
    def resident(self) -> bool:
        """Whether one program holds a whole segment."""
        return len(self.tiles) == 0


@dataclass(frozen=True)
class DevicePlan:
    """Segments of all samples on the device; reusable while segments, budgets, width and dtype stay the same.

    Attributes:
        counts: picks of each segment of each sample, in the callers' order.
        rows: (T,) int64, the position in its sample of every token of a segment that keeps some.
        origin: (K,) int64, for each pick where the tokens of its segment start in ``rows``.
        groups: segments that share launches.
        feature_dim: width D of the features.
        dtype: dtype of the features.
    """

    counts: tuple[tuple[int, ...], ...]
    rows: Tensor
    origin: Tensor
    groups: tuple[Group, ...]
    feature_dim: int
    dtype: torch.dtype

    @property
    def picks(self) -> int:
        """Tokens kept in all samples, K."""
        return len(self.origin)


def device_plan(
    samples: Sequence[Sequence[Segment]],
    feature_dim: int,
    dtype: torch.dtype,
    device: torch.device | str,
    long_segment: int = LONG_SEGMENT,
) -> DevicePlan:
    """Send the segments of each sample to ``device``.

    Args:
        samples: the segments of each sample, in the order of its result.
        feature_dim: width D of the features.
        dtype: dtype of the features.
        device: where the features are.
        long_segment: segments of more tokens than this go without a Gram matrix.
    """
    placed = _place(samples)
    drafts = [_draft(kind, places, feature_dim, dtype) for kind, places in _groups(placed, dtype, long_segment)]
    rows = torch.cat([p.segment.rows for p in placed]) if placed else torch.empty(0, dtype=torch.int64, device="cpu")
    origin = np.repeat([p.first for p in placed], [p.segment.count for p in placed]).astype(np.int64)
    arrays = [rows.numpy(), origin, *(array for draft in drafts for array in draft.arrays)]
    sent_rows, sent_origin, *sent = _send(arrays, torch.device(device))
    groups = [draft.group(*sent[3 * i : 3 * i + 3]) for i, draft in enumerate(drafts)]
    counts = tuple(tuple(s.count for s in segments) for segments in samples)
    return DevicePlan(counts, sent_rows, sent_origin, tuple(groups), feature_dim, dtype)


def matrices_group(lengths: Tensor, counts: Tensor, width: int, device: torch.device) -> Group:
    """The group of S matrices that lie padded to ``width`` one after the other, with picks padded to the largest count.

    Args:
        lengths, counts: (S,) int64 on the CPU.
        width: rows and columns that each matrix has in memory.
        device: where the matrices are.
    """
    size, steps = len(lengths), int(counts.max())
    tile_counts = -(-lengths.numpy() // STEP_TILE)
    each = np.arange(size)
    table = np.zeros((size, 9), dtype=np.int64)
    table[:] = np.stack(
        [
            each * width, lengths.numpy(), counts.numpy(), each * 0, each * steps, each * width * width,
            each * 0 + width, each * width * steps, np.cumsum(tile_counts) - tile_counts,
        ],
        axis=1,
    )  # fmt: skip
    resident = width <= RESIDENT
    tiles = np.zeros((0, 2), np.int64) if resident else _tiles(lengths.numpy(), STEP_TILE)
    sent_table, pairs, sent_tiles = _send([table, np.zeros((0, 3), np.int64), tiles], device)
    return Group((), sent_table, pairs, sent_tiles, width, steps, size * width * width, size * width * steps)


def _place(samples: Sequence[Sequence[Segment]]) -> list[Place]:
    wanted = [(b, s) for b, segments in enumerate(samples) for s in segments if s.count > 0]
    firsts = accumulate((len(s) for _, s in wanted), initial=0)
    picks = accumulate((s.count for _, s in wanted), initial=0)
    return [Place(b, s, first, pick) for (b, s), first, pick in zip(wanted, firsts, picks, strict=False)]


def _groups(placed: Sequence[Place], dtype: torch.dtype, long_segment: int) -> Iterator[tuple[str, list[Place]]]:
    """Segments by how they are selected from; those with Gram matrices in parts that fit in memory."""
    itemsize = 8 if dtype == torch.float64 else 4
    kinds: dict[str, list[Place]] = {"resident": [], "stepped": [], "long": []}
    for place in placed:
        n = len(place.segment)
        kinds["long" if n > long_segment else "stepped" if n > RESIDENT else "resident"].append(place)
    for kind in ("resident", "stepped"):
        part: list[Place] = []
        held = 0
        for place in kinds[kind]:
            size = len(place.segment) ** 2 * itemsize
            if part and held + size > GRAM_BYTES:
                yield kind, part
                part, held = [], 0
            part.append(place)
            held += size
        if part:
            yield kind, part
    if kinds["long"]:
        yield "long", kinds["long"]


@dataclass(frozen=True)
class _Draft:
    """A group before its arrays are sent."""

    places: tuple[Place, ...]
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray]
    gram_size: int
    state_size: int

    def group(self, table: Tensor, pairs: Tensor, tiles: Tensor) -> Group:
        width = max(len(p.segment) for p in self.places)
        steps = int(self.arrays[0][:, 2].max())
        return Group(self.places, table, pairs, tiles, width, steps, self.gram_size, self.state_size)


def _draft(kind: str, places: Sequence[Place], feature_dim: int, dtype: torch.dtype) -> _Draft:
    tile = ROW_TILE if kind == "long" else STEP_TILE
    table = np.zeros((len(places), 9), dtype=np.int64)
    gram = state = partials = 0
    for row, place in zip(table, places, strict=True):
        n, count = len(place.segment), place.segment.count
        if kind == "long":
            count = min(count, feature_dim)
        row[:] = place.first, n, count, place.sample, place.picks, gram, n, state, partials
        gram += 0 if kind == "long" else n * n
        state += count * (feature_dim if kind == "long" else n)
        partials += -(-n // tile)
    lengths = table[:, 1]
    pairs = _tile_pairs(lengths, gram_options(dtype)["TILE"]) if kind != "long" else np.zeros((0, 3), np.int64)
    tiles = _tiles(lengths, tile) if kind != "resident" else np.zeros((0, 2), np.int64)
    return _Draft(tuple(places), (table, pairs, tiles), gram, state)


def _tile_pairs(lengths: np.ndarray, tile: int) -> np.ndarray:
    """(P, 3): segment, row and column of every tile on or below the diagonal."""
    lower = {n: np.stack(np.tril_indices(n), axis=1) for n in set((-(-lengths // tile)).tolist())}
    parts = [lower[n] for n in (-(-lengths // tile)).tolist()]
    owner = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
    return np.concatenate([owner[:, None], np.concatenate(parts)], axis=1)


def _tiles(lengths: np.ndarray, tile: int) -> np.ndarray:
    """(Q, 2): segment and tile."""
    counts = -(-lengths // tile)
    owner = np.repeat(np.arange(len(counts)), counts)
    return np.stack([owner, np.concatenate([np.arange(n) for n in counts])], axis=1)


def _send(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """Int64 arrays on the device, in one copy that does not wait for it."""
    flat = torch.from_numpy(np.concatenate([a.reshape(-1) for a in arrays]))
    if device.type == "cuda":
        flat = flat.pin_memory()
    parts = flat.to(device, non_blocking=True).split([a.size for a in arrays])
    return [part.view(a.shape) for part, a in zip(parts, arrays, strict=True)]
