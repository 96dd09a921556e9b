"""DivPrune: max–min diversity."""

from __future__ import annotations

from framefusion.evaluation.methods.method import PLAIN, Method, at_input

METHOD = Method(
    name="divprune",
    title="DivPrune",
    kind="published",
    citation="arXiv 2503.02175",
    description="Max–min diversity over the whole video, before layer 0.",
    build=at_input("divprune"),
    rule={**PLAIN, "selector": "divprune"},
)
