"""The question without the video: what can be guessed."""

from __future__ import annotations

from framefusion.evaluation.methods.method import PLAIN, Method
from framefusion.reduction.settings import FrameFusion


def _build(budget: float, layers: int) -> FrameFusion:
    return FrameFusion(keep=1.0, **PLAIN)


METHOD = Method(
    name="text-only",
    title="Text only",
    kind="control",
    citation="",
    description="Blank frames, all of their tokens, whatever the budget.",
    build=_build,
    budgeted=False,
    blank=True,
)
