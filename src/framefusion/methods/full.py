"""All tokens: what every method is measured against."""

from __future__ import annotations

from framefusion.methods.method import PLAIN, Method
from framefusion.settings import FrameFusion


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
