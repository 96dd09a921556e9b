"""ForestPrune: trees of similar tokens through time."""

from __future__ import annotations

from framefusion.evaluation.methods.method import PLAIN, Method, at_input

METHOD = Method(
    name="forestprune",
    title="ForestPrune",
    kind="published",
    citation="arXiv 2603.22911",
    description="The shallowest and earliest tokens of trees through time, before layer 0.",
    build=at_input("forestprune"),
    rule={**PLAIN, "selector": "forestprune"},
)
