"""Turn segment ids and budgets into the list of segments to select from, on the host, before any
arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

Budgets = Mapping[int, int] | Sequence[int] | int
"""Tokens to keep: by segment id, in ascending order of the ids, or in total."""

LONG_SEGMENT = 4096
"""Segments of more tokens than this go through pivoted Gram–Schmidt: their Gram matrix would exceed 64 MiB in
float32."""


@dataclass(frozen=True)
class Segment:
    """One temporal segment of one sample.

    Attributes:
        id: the segment's id.
        rows: (n,) int64 on the CPU, ascending: the positions of its tokens in the sample.
        count: tokens to keep, 0 … n.
        start: first row if the rows are consecutive, else None.
    """

    id: int
    rows: Tensor
    count: int
    start: int | None

    def __len__(self) -> int:
        return self.rows.shape[0]


class Picks(NamedTuple):
    """What one segment keeps.

    Attributes:
        rows: (k,) int64 on the features' device, positions in the sample in greedy order.
        trace: (k, 2) float64 on the same device, None where nobody asked. For each pick its gain ``d²`` at that time,
            and the novelty before it: the largest ``d²[i] / r[i]²`` of the tokens not yet picked. Neither ever
            increases. Tokens that fill up an exhausted segment have zeros.
        nearest: (n,) int64 on the CPU, for each of the segment's n rows the most similar one that is kept (itself for a
            kept one, ties to the lowest), −1 where none is. None where nobody asked.
        similarity: (n,) float32 on the CPU, the cosine of the two, −Inf where there is none.
    """

    rows: Tensor
    trace: Tensor | None = None
    nearest: Tensor | None = None
    similarity: Tensor | None = None

    def first(self, count: int) -> Picks:
        """The first ``count`` of them."""
        return Picks(self.rows[:count], None if self.trace is None else self.trace[:count])

    @classmethod
    def none(cls, device: torch.device, traced: bool) -> Picks:
        """Of a segment that keeps nothing."""
        rows = torch.empty(0, dtype=torch.int64, device=device)
        return cls(rows, rows.new_empty(0, 2, dtype=torch.float64) if traced else None)


def make_segment(segment_id: int, rows: Tensor, budget: int) -> Segment:
    """A segment whose count is the budget capped by its length."""
    n = rows.shape[0]
    first, last = (int(rows[0]), int(rows[-1])) if n else (0, 0)
    return Segment(segment_id, rows, min(budget, n), first if n and last - first == n - 1 else None)


def run_starts(ids: np.ndarray) -> np.ndarray:
    """Positions in ``ids`` (N,) at which a run of equal ids begins."""
    if ids.size == 0:
        return np.zeros(0, dtype=np.int64)
    return np.concatenate(([0], np.flatnonzero(ids[1:] != ids[:-1]) + 1))


def present_ids(ids: np.ndarray) -> list[int]:
    """Ascending distinct ids ≥ 0 of an array of any shape."""
    flat = ids.reshape(-1)
    return sorted(i for i in set(flat[run_starts(flat)].tolist()) if i >= 0)


def rows_by_segment(ids: np.ndarray) -> dict[int, Tensor]:
    """Rows of each segment id ≥ 0 in ``ids`` (N,), ascending ids, ascending rows."""
    starts = run_starts(ids)
    runs = ids[starts].tolist()
    present = [i for i in runs if i >= 0]
    if len(set(present)) == len(present):
        # Every segment is one run, as in a video: no sorting.
        rows = torch.arange(len(ids), device="cpu")
        bounds = [*starts.tolist(), len(ids)]
        pieces = {i: rows[bounds[p] : bounds[p + 1]] for p, i in enumerate(runs) if i >= 0}
        return dict(sorted(pieces.items()))
    visual = np.flatnonzero(ids >= 0)
    order = torch.from_numpy(visual[np.argsort(ids[visual], kind="stable")])
    found, lengths = np.unique(ids[visual], return_counts=True)
    return dict(zip(found.tolist(), order.split(lengths.tolist()), strict=True))


def split_total(total: int, lengths: Sequence[int]) -> list[int]:
    """Split ``total`` over ``lengths`` by largest remainder, ties to the earlier; never more than a length."""
    available = sum(lengths)
    total = min(total, available)
    if available == 0:
        return [0] * len(lengths)
    shares = [divmod(total * n, available) for n in lengths]
    counts = [whole for whole, _ in shares]
    by_remainder = sorted(range(len(lengths)), key=lambda i: (-shares[i][1], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def plan_segments(ids: np.ndarray, budgets: Budgets, known_ids: Sequence[int], joint: bool = False) -> list[Segment]:
    """The segments of one sample in the order of its budgets.

    Args:
        ids: (N,) integer segment ids, −1 for tokens outside every segment.
        budgets: validated budgets; a sequence has one entry for each of ``known_ids``.
        known_ids: ascending segment ids that a sequence of budgets refers to.
        joint: the budget is the total of the sample; each segment may keep all it has.
    """
    rows = rows_by_segment(ids)
    if joint:
        return [make_segment(i, r, len(r)) for i, r in rows.items()]
    if isinstance(budgets, Mapping):
        wanted = list(budgets.items())
    elif isinstance(budgets, int):
        wanted = list(zip(rows, split_total(budgets, [len(r) for r in rows.values()]), strict=True))
    else:
        wanted = list(zip(known_ids, budgets, strict=True))
    nothing = torch.empty(0, dtype=torch.int64, device="cpu")
    return [make_segment(i, rows.get(i, nothing), budget) for i, budget in wanted]
