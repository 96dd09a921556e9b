"""All tokens: what every method is measured against."""

from __future__ import annotations

from framefusion.evaluation.methods.method import PLAIN, Method
from framefusion.reduction.settings import FrameFusion


def _build(budget: float, layers: int) -> FrameFusion:
    return FrameFusion(keep=1.0, **PLAIN)


METHOD = Method(
    name="full",
    title="All tokens",
    kind="control",
    citation="",
    description="Nothing is reduced, whatever the budget.",
    build=_build,
    budgeted=False,
)
