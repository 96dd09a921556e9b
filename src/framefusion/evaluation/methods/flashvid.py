"""FlashVID: attention and diversity, then trees through time."""

from __future__ import annotations

from framefusion.evaluation.methods.method import PLAIN, Method
from framefusion.reduction.schedule import pyramid
from framefusion.reduction.settings import FrameFusion

RULE = {**PLAIN, "segmentation": "dyseg", "relevance": "encoder-last", "selector": "flashvid"}


def _build(budget: float, layers: int) -> FrameFusion:
    return FrameFusion(keep=pyramid(budget, layers, steps=((0.0, 1.0), (20 / 28, 0.3))), **RULE)


METHOD = Method(
    name="flashvid",
    title="FlashVID",
    kind="published",
    citation="arXiv 2602.08024",
    description="Different tokens of each frame stay and the rest joins trees through time, before layer 0; before "
    "layer 20 of 28 the three tenths most attended to stay.",
    build=_build,
    rule=RULE,
)
