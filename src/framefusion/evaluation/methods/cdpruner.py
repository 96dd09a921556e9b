"""CDPruner: one conditional determinantal point process over the whole video."""

from __future__ import annotations

from framefusion.evaluation.methods.method import COSINES, PLAIN, Method, behind_attention, one_stage
from framefusion.reduction.selectors.dpp import DPPOnce
from framefusion.reduction.settings import FrameFusion

# Sign +1 and the largest similarity are the kind choices: the published code takes minus the mean one.
INSIDE = {**PLAIN, "relevance": "last", "selector": DPPOnce(**COSINES)}
INPUT = {**PLAIN, "relevance": "similarity", "selector": DPPOnce(**COSINES)}


def _inside(budget: float, layers: int) -> FrameFusion:
    return FrameFusion(keep=behind_attention(budget, layers), **INSIDE)


def _input(budget: float, layers: int) -> FrameFusion:
    return FrameFusion(keep=one_stage(budget, layers, 0), **INPUT)


METHODS = (
    Method(
        name="cdpruner",
        title="CDPruner (attention)",
        kind="published",
        citation="arXiv 2506.10967",
        description="Whole-video DPP conditioned on the last token's attention, before layer 2 of 28.",
        build=_inside,
        rule=INSIDE,
    ),
    Method(
        name="cdpruner-input",
        title="CDPruner (similarity)",
        kind="published",
        citation="arXiv 2506.10967",
        description="Whole-video DPP conditioned on the similarity to the question's tokens, before layer 0.",
        build=_input,
        rule=INPUT,
    ),
)
