"""Tokens drawn at random: the control that several published rules do not beat."""

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
        selector="random",
    )


METHOD = Method(
    name="random",
    title="Random",
    kind="control",
    citation="",
    description="Tokens drawn at random, before layer 0.",
    build=_build,
    random=True,
)
