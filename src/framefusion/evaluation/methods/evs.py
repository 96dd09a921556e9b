"""Efficient Video Sampling: frame dissimilarity."""

from __future__ import annotations

from framefusion.evaluation.methods.method import PLAIN, Method, at_input

METHOD = Method(
    name="evs",
    title="EVS",
    kind="published",
    citation="arXiv 2510.14624",
    description="The tokens least like the same patch of the frame before, before layer 0; the rule that vLLM ships.",
    build=at_input("evs"),
    rule={**PLAIN, "selector": "evs"},
)
