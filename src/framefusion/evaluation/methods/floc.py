"""FLoC: facility location."""

from __future__ import annotations

from framefusion.evaluation.methods.method import PLAIN, Method, at_input

METHOD = Method(
    name="floc",
    title="FLoC",
    kind="published",
    citation="arXiv 2511.00141",
    description="The tokens that all others are most similar to, over the whole video, before layer 0.",
    build=at_input("floc"),
    rule={**PLAIN, "selector": "floc"},
)
