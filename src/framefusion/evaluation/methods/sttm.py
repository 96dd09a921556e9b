"""STTM: quadtrees that merge over time."""

from __future__ import annotations

from framefusion.evaluation.methods.method import PLAIN, Method, one_stage
from framefusion.reduction.schedule import default_layer
from framefusion.reduction.settings import FrameFusion

RULE = {**PLAIN, "selector": "sttm"}


def _build(budget: float, layers: int) -> FrameFusion:
    return FrameFusion(keep=one_stage(budget, layers, default_layer(layers)), **RULE)


METHOD = Method(
    name="sttm",
    title="STTM",
    kind="published",
    citation="arXiv 2507.07990",
    description="The nodes of quadtrees in each frame, merged over time, before layer 2 of 28.",
    build=_build,
    rule=RULE,
)
