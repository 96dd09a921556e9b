"""CDPruner: one conditional determinantal point process over the whole video."""

from __future__ import annotations

from framefusion.methods.method import PLAIN, Method, behind_attention, one_stage
from framefusion.settings import FrameFusion


def _inside(budget: float, layers: int) -> FrameFusion:
    return FrameFusion(keep=behind_attention(budget, layers), **{**PLAIN, "relevance": "last", "selector": "dpp-once"})


def _input(budget: float, layers: int) -> FrameFusion:
    rule = {**PLAIN, "relevance": "similarity", "selector": "dpp-once"}
    return FrameFusion(keep=one_stage(budget, layers, 0), **rule)


METHODS = (
    Method(
        name="cdpruner",
        title="CDPruner (attention)",
        kind="published",
        citation="arXiv 2506.10967",
        description="Whole-video DPP conditioned on the last token's attention, before layer 2 of 28.",
        build=_inside,
    ),
    Method(
        name="cdpruner-input",
        title="CDPruner (similarity)",
        kind="published",
        citation="arXiv 2506.10967",
        description="Whole-video DPP conditioned on the similarity to the question's tokens, before layer 0.",
        build=_input,
    ),
)
