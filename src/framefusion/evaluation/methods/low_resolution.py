"""Lower resolution: each frame pooled into fewer tokens."""

from __future__ import annotations

from framefusion.evaluation.methods.method import Method, at_input

METHOD = Method(
    name="low-resolution",
    title="Lower resolution",
    kind="control",
    citation="",
    description="Each frame average-pooled into as many blocks as the budget has, before layer 0.",
    build=at_input("low-resolution"),
)
