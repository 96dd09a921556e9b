"""FastVID: density-based merging in dynamic segments."""

from __future__ import annotations

from framefusion.methods.method import PLAIN, Method, one_stage
from framefusion.settings import FrameFusion


def _build(budget: float, layers: int) -> FrameFusion:
    return FrameFusion(keep=one_stage(budget, layers, 0), **{**PLAIN, "segmentation": "dyseg", "selector": "fastvid"})


METHOD = Method(
    name="fastvid",
    title="FastVID",
    kind="published",
    citation="arXiv 2503.11187",
    description="Density peaks of anchor frames in DySeg segments take in the rest, before layer 0.",
    build=_build,
)
