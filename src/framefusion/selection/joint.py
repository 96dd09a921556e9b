"""One total for all segments: the greedy MAP of the block-diagonal kernel.

With zeros between the segments the gain of a token depends on its own segment alone, and in a segment greedy gains
never increase. So the greedy over all of them is the merge of their own sequences by gain, and each sequence is needed
only as far as the merge goes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from framefusion.selection.numerics import scale_by_peak, unscale_trace
from framefusion.selection.plan import Picks, Segment
from framefusion.selection.problem import Answer, Ask, Problem

GREEDY_START = 2.0
"""Each segment's sequence is first computed up to this multiple of its uniform share of the total, then doubled while
the merge uses all of it."""


def answer(problem: Problem, ask: Ask) -> Answer:
    """Ask for the sequences of the segments, and merge them."""
    if problem.total is None:
        return ask(problem)
    return [_of_sample(problem.of_sample(b), problem.total, ask) for b in range(len(problem.samples))]


def _of_sample(problem: Problem, total: int, ask: Ask) -> list[Picks]:
    relevance = None if problem.relevance is None else problem.relevance[0]

    def sequences(scaled: Tensor | None, wanted: Sequence[Segment]) -> list[Picks]:
        weights = None if scaled is None else scaled[None]
        return ask(problem.with_segments(wanted, relevance=weights, exhausted="stop", traced=True, total=None))[0]

    return select(sequences, relevance, problem.samples[0], total, problem.exhausted == "stop")


def select(
    run: Callable[[Tensor | None, Sequence[Segment]], list[Picks]],
    relevance: Tensor | None,
    segments: Sequence[Segment],
    total: int,
    early_stop: bool,
) -> list[Picks]:
    """What each segment keeps, ``total`` tokens in all.

    Ties between segments go to the lowest row. Every segment that has tokens keeps one if the total allows.

    Args:
        run: the segments' own greedy sequences, with traces, as far as they are not exhausted.
        relevance: (N,) float64, or None for uniform relevance.
        segments: segments of one sample; their counts are not read.
        total: tokens to keep in all.
        early_stop: return fewer tokens instead of filling up when all segments are exhausted.
    """
    present = sum(map(len, segments))
    total = min(total, present)
    # On one scale, so that the squares of large or small relevance stay finite; undone below.
    scaled = relevance
    if relevance is not None and relevance.numel():
        scaled = scale_by_peak(relevance, relevance.amax())
    most = [min(len(s), total) for s in segments]
    caps = [
        min(n, math.ceil(GREEDY_START * total * len(s) / max(present, 1))) for n, s in zip(most, segments, strict=True)
    ]
    sequences = run(scaled, [replace(s, count=cap) for s, cap in zip(segments, caps, strict=True)])
    while True:
        counts, spare = _merge(sequences, segments, total, early_stop)
        short = [
            i for i, (n, cap, count) in enumerate(zip(most, caps, counts, strict=True)) if count == cap and 0 < cap < n
        ]
        if not short:
            break
        for i in short:
            caps[i] = min(2 * caps[i], most[i])
        for i, longer in zip(short, run(scaled, [replace(segments[i], count=caps[i]) for i in short]), strict=True):
            sequences[i] = longer
    picks = [p.first(n) for p, n in zip(sequences, counts, strict=True)]
    left = 0 if early_stop else total - sum(counts)
    picks = _fill(picks, segments, relevance, left, spare)
    if relevance is None or not relevance.numel():
        return picks
    return [p if p.trace is None else p._replace(trace=unscale_trace(p.trace[None], relevance[None])[0]) for p in picks]


def _merge(
    sequences: Sequence[Picks], segments: Sequence[Segment], total: int, early_stop: bool
) -> tuple[list[int], list[int]]:
    """How many tokens the greedy takes of each sequence, and the segments whose first token the fill must take."""
    lengths = [len(p.rows) for p in sequences]
    empty = [i for i, (s, n) in enumerate(zip(segments, lengths, strict=True)) if len(s) and not n]
    started = sum(n > 0 for n in lengths)
    waiting = [] if early_stop else empty
    for_all = total >= started + len(waiting)
    reserved = waiting if for_all else []
    own = torch.arange(len(sequences), device="cpu").repeat_interleave(
        torch.tensor(lengths, dtype=torch.int64, device="cpu")
    )
    if not len(own):
        return lengths, reserved
    gains = torch.cat([p.trace[:, 0] for p in sequences if p.trace is not None]).cpu()
    rows = torch.cat([p.rows for p in sequences]).cpu()
    if for_all:
        starts = torch.tensor([0, *lengths[:-1]], device="cpu").cumsum(0)
        firsts = starts[torch.tensor(lengths, device="cpu") > 0]
        gains[firsts] = torch.inf
    order = rows.argsort()
    order = order[gains[order].argsort(descending=True, stable=True)]
    taken = own[order[: total - len(reserved)]]
    return torch.bincount(taken, minlength=len(sequences)).tolist(), reserved


def _fill(
    picks: list[Picks], segments: Sequence[Segment], relevance: Tensor | None, left: int, reserved: Sequence[int]
) -> list[Picks]:
    """``left`` more tokens by descending relevance, then by row, the first ones in the ``reserved`` segments."""
    if left <= 0:
        return picks
    rows = torch.cat([s.rows for s in segments])
    lengths = torch.tensor([len(s) for s in segments], device="cpu")
    own = torch.arange(len(segments), device="cpu").repeat_interleave(lengths)
    taken = torch.isin(rows, torch.cat([p.rows for p in picks]).cpu())
    rows, own = rows[~taken], own[~taken]
    by_row = rows.argsort()
    rows, own = rows[by_row], own[by_row]
    if relevance is not None:
        by_relevance = relevance.cpu()[rows].argsort(descending=True, stable=True)
        rows, own = rows[by_relevance], own[by_relevance]
    late = torch.ones(len(rows), dtype=torch.bool, device="cpu")
    for i in reserved:
        late[(own == i).nonzero()[0]] = False
    first = late.int().argsort(stable=True)[:left].sort().values
    rows, own = rows[first], own[first]
    filled = []
    for i, p in enumerate(picks):
        more = rows[own == i].to(p.rows.device)
        trace = None if p.trace is None else torch.cat([p.trace, p.trace.new_zeros(len(more), 2)])
        filled.append(Picks(torch.cat([p.rows, more]), trace))
    return filled
