"""Fewer frames: what a user does who knows of no method."""

from __future__ import annotations

import math

from framefusion.evaluation.methods.method import PLAIN, BudgetError, Method, check_budget
from framefusion.reduction.settings import FrameFusion


def frames(budget: float, frames: int) -> int:
    """How many of ``frames`` the model is given: ``floor(budget · frames)``, never above the budget.

    A frame is what the decoder sees as one, a temporal patch of the encoder.

    Raises:
        BudgetError: not even one.
        ValueError: the budget is out of range.
    """
    check_budget(budget)
    count = math.floor(budget * frames + 1e-9)
    if count < 1:
        raise BudgetError(budget, 1 / max(frames, 1), f"one of {frames} frames is more")
    return count


def _build(budget: float, layers: int) -> FrameFusion:
    return FrameFusion(keep=1.0, **PLAIN)


METHOD = Method(
    name="fewer-frames",
    title="Fewer frames",
    kind="control",
    citation="",
    description="Evenly spaced frames, all of their tokens.",
    build=_build,
    frames=frames,
)
