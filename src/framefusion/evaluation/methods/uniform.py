"""Evenly spaced tokens: the control that looks at nothing."""

from __future__ import annotations

from framefusion.evaluation.methods.method import PLAIN, Method, at_input

METHOD = Method(
    name="uniform",
    title="Uniform stride",
    kind="control",
    citation="",
    description="Evenly spaced tokens of the sequence, before layer 0.",
    build=at_input("uniform"),
    rule={**PLAIN, "selector": "uniform"},
)
