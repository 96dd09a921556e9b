"""Stop where nothing new is left: the budgets become upper bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from framefusion.selection.plan import Picks, split_total
from framefusion.selection.problem import Answer, Ask, Problem


def answer(problem: Problem, ask: Ask) -> Answer:
    """Ask for the picks without the bound, and cut them."""
    if problem.novelty_lower_bound == 0:
        return ask(problem)
    unbounded = ask(replace(problem, novelty_lower_bound=0.0, traced=True))
    return [until_nothing_new(picks, problem.novelty_lower_bound, problem.at_least) for picks in unbounded]


def until_nothing_new(picks: Sequence[Picks], lower_bound: float, at_least: int) -> list[Picks]:
    """Cut each segment's picks before the first one that found a novelty below ``lower_bound``.

    Novelty never increases, so all picks after it would have found less still.

    Args:
        picks: with traces, see :class:`~framefusion.selection.plan.Picks`.
        lower_bound: in [0, 1].
        at_least: tokens that stay in all, split over the segments by largest remainder over their picks.
    """
    least = split_total(at_least, [len(p.rows) for p in picks])
    cut = []
    for p, low in zip(picks, least, strict=True):
        assert p.trace is not None
        cut.append(p.first(max(low, int((p.trace[:, 1] >= lower_bound).sum()))))
    return cut
