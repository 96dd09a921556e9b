"""HoliTom: spatio-temporal merging before the decoder, attention-guided merging inside."""

from __future__ import annotations

from framefusion.evaluation.methods.method import PLAIN, Method
from framefusion.reduction.schedule import pyramid
from framefusion.reduction.settings import FrameFusion

# The rule cuts the video itself, together with its merging.
RULE = {**PLAIN, "relevance": "encoder-last", "selector": "holitom"}

SMALL = 0.1
"""Budgets up to this have the smaller of the authors' two thresholds of similarity."""


def _build(budget: float, layers: int) -> FrameFusion:
    keep = pyramid(budget, layers, steps=((0.0, 1.0), (18 / 28, 0.5)))
    return FrameFusion(keep=keep, **{**RULE, "selector": "holitom-loose" if budget <= SMALL else "holitom"})


METHOD = Method(
    name="holitom",
    title="HoliTom",
    kind="published",
    citation="arXiv 2505.21334",
    description=(
        "Before layer 0 static tokens merge over time and around density peaks, and the others stay that the vision "
        "encoder attends to most; before layer 18 of 28 half of them merge into the most attended."
    ),
    build=_build,
    rule=RULE,
)
