"""LLaVA-Scissor: semantic connected components."""

from __future__ import annotations

from framefusion.evaluation.methods.method import PLAIN, Method, at_input

METHOD = Method(
    name="llava-scissor",
    title="LLaVA-Scissor",
    kind="published",
    citation="arXiv 2506.21862",
    description="One token for each connected component of similar tokens, in each frame and then over time, before "
    "layer 0.",
    build=at_input("scissor"),
    rule={**PLAIN, "selector": "scissor"},
)
