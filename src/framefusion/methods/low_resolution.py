"""Lower resolution: each frame pooled into fewer tokens."""

from __future__ import annotations

from framefusion.methods.method import Method, one_stage
from framefusion.settings import FrameFusion


def _build(budget: float, layers: int) -> FrameFusion:
    return FrameFusion(
        keep=one_stage(budget, layers, 0),
        merge=False,
        segmentation="single",
        budget_rule="uniform",
        relevance="none",
        selector="low-resolution",
    )


METHOD = Method(
    name="low-resolution",
    title="Lower resolution",
    kind="control",
    citation="",
    description="Each frame average-pooled into as many blocks as the budget has, before layer 0.",
    build=_build,
)
