"""Begin a new greedy over the tokens that are left when all candidates of a segment are exhausted.

A greedy is over once the chosen tokens span their segment, after as many as the features have dimensions at the most:
all determinants are 0 from there on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from framefusion.selection.plan import Picks, Segment, make_segment
from framefusion.selection.problem import Answer, Ask, Problem


def answer(problem: Problem, ask: Ask) -> Answer:
    """Ask for one greedy after another."""
    if problem.exhausted != "restart":
        return ask(problem)
    return [_of_sample(problem.of_sample(b), ask) for b in range(len(problem.samples))]


def _of_sample(problem: Problem, ask: Ask) -> list[Picks]:
    def run(wanted: Sequence[Segment], until: str) -> list[Picks]:
        return ask(problem.with_segments(wanted, exhausted=until))[0]

    return select(run, problem.samples[0])


def select(run: Callable[[Sequence[Segment], str], list[Picks]], segments: Sequence[Segment]) -> list[Picks]:
    """What each segment keeps.

    Args:
        run: one greedy over such segments, which "stop"s when it is exhausted, or "fill"s up.
        segments: segments of one sample.
    """
    picks = run(segments, "stop")
    while True:
        left = [
            (i, _without(s, p)) for i, (s, p) in enumerate(zip(segments, picks, strict=True)) if len(p.rows) < s.count
        ]
        if not left:
            return picks
        more = run([s for _, s in left], "stop")
        for (i, segment), fresh in zip(left, more, strict=True):
            if not len(fresh.rows):
                # Only zero vectors are left.
                (fresh,) = run([segment], "fill")
            picks[i] = _joined(picks[i], fresh)


def _without(segment: Segment, picks: Picks) -> Segment:
    taken = torch.isin(segment.rows, picks.rows.cpu())
    return make_segment(segment.id, segment.rows[~taken], segment.count - len(picks.rows))


def _joined(one: Picks, other: Picks) -> Picks:
    trace = None if one.trace is None or other.trace is None else torch.cat([one.trace, other.trace])
    return Picks(torch.cat([one.rows, other.rows]), trace)
