"""PyramidDrop: half of the tokens go at each quarter of the depth."""

from __future__ import annotations

from framefusion.evaluation.methods.method import PLAIN, Method
from framefusion.reduction.schedule import pyramid
from framefusion.reduction.settings import FrameFusion

RULE = {**PLAIN, "relevance": "last", "selector": "pyramiddrop"}

STEPS = ((0.0, 1.0), (1 / 4, 0.5), (1 / 2, 0.25), (3 / 4, 0.125))
"""The authors' stages behind layers 8, 16 and 24 of 32, with ``λ = 0.5``: 46.9 % of the token-layers."""


def _build(budget: float, layers: int) -> FrameFusion:
    return FrameFusion(keep=pyramid(budget, layers, steps=STEPS), **RULE)


METHOD = Method(
    name="pyramiddrop",
    title="PyramidDrop",
    kind="published",
    citation="arXiv 2410.17247",
    description=(
        "At each quarter of the depth the half stays that the last token attends to most; smaller budgets begin with "
        "evenly spaced tokens."
    ),
    build=_build,
    rule=RULE,
)
