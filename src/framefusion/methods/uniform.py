"""Evenly spaced tokens: the control that looks at nothing."""

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
        selector="uniform",
    )


METHOD = Method(
    name="uniform",
    title="Uniform stride",
    kind="control",
    citation="",
    description="Evenly spaced tokens of the sequence, before layer 0.",
    build=_build,
)
