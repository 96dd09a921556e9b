"""Rules in the same stages: what is left of a lead once the schedule is taken away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from framefusion.errors import ArgumentError
from framefusion.evaluation.methods.method import Method, behind_attention, one_stage
from framefusion.reduction.schedule import pyramid
from framefusion.reduction.settings import FrameFusion

SCHEDULES: Mapping[str, Callable[[float, int], dict[int, float]]] = {
    "input": lambda budget, layers: one_stage(budget, layers, 0),
    "attention": behind_attention,
    "stages": pyramid,
}
"""Stages by name, ``keep`` of a budget and a number of layers: one before layer 0, one behind the first attention
(FastV's layer), and those of ``FrameFusion(cost=…)``."""


def schedule_of(name: str) -> str:
    """The schedule that a method's name ends with, in :data:`SCHEDULES`; empty for its own stages."""
    return name.partition("@")[2]


def placed(method: Method, schedule: str) -> Method:
    """A method's rule in other stages, at the same budget; its name ends with ``@`` and the schedule's.

    Before layer 0, where there is no attention, a rule that weighs by it goes without.

    Args:
        method: with a rule.
        schedule: in :data:`SCHEDULES`.

    Raises:
        ValueError: there is no such schedule, or the method has no rule of its own.
    """
    if schedule not in SCHEDULES:
        raise ArgumentError(f"schedule must be one of {', '.join(map(repr, SCHEDULES))}, got {schedule!r}.")
    rule = method.rule
    if rule is None:
        raise ArgumentError(f"method {method.name!r} has no rule that could be put into other stages.")

    def build(budget: float, layers: int) -> FrameFusion:
        return FrameFusion(keep=SCHEDULES[schedule](budget, layers), **rule)

    name, title = f"{method.name}@{schedule}", f"{method.title} @ {schedule}"
    told = f"{method.title} in the stages {schedule!r}."
    return replace(method, name=name, title=title, description=told, build=build)
