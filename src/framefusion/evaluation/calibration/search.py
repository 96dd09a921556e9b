"""The smallest budget that keeps a floor, by testing budgets in a fixed order. Pure numbers."""

from __future__ import annotations

from collections.abc import Mapping

from framefusion.evaluation.calibration.bounds import Sample
from framefusion.reduction.settings_file import Trial

Found = tuple[Sample, float]
"""What was right at a budget, and the share of tokens that was really there."""


def fixed_sequence(found: Mapping[float, Found | str], floor: float, confidence: float) -> list[Trial]:
    """Test budgets from the largest to the smallest, and stop at the first that does not hold the floor.

    Each is tested at the full level. A wrong promise needs a first budget below the floor that passes its test, and
    there is only one such budget: no correction for several tests (fixed-sequence testing, Maurer et al. 1995; as in
    Learn then Test, Angelopoulos et al., arXiv 2110.01052).

    Args:
        found: per budget in (0, 1) its sample, or why it cannot be reached.
        floor: smallest relative accuracy or agreement, in (0, 1).
        confidence: in (0, 1).

    Returns:
        Budget 1.0, which holds without a test, and the others, largest first.
    """
    tested = [Trial(1.0, "holds", share=1.0, estimate=1.0, lower=1.0)]
    going = True
    for budget in sorted(found, reverse=True):
        what = found[budget]
        if isinstance(what, str):
            tested.append(Trial(budget, "unreachable", reason=what))
            continue
        sample, share = what
        estimate = sample.estimate
        if not going:
            tested.append(Trial(budget, "untested", share=share, estimate=estimate))
            continue
        lower = sample.lower(confidence)
        if lower >= floor:
            tested.append(Trial(budget, "holds", share=share, estimate=estimate, lower=lower))
            continue
        going = False
        unclear = estimate >= floor
        needed = sample.needed(floor, confidence) if unclear else None
        outcome = Trial(budget, "unclear" if unclear else "falls", share, estimate, lower, needed)
        tested.append(outcome)
    return tested


def smallest(tested: list[Trial]) -> float:
    """The smallest budget that holds."""
    return min(entry.budget for entry in tested if entry.outcome == "holds")
