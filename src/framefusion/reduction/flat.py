"""Settings without nesting, as command lines, model arguments and older files say them: a name for each parameter."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from framefusion.checks import check_flag
from framefusion.errors import ArgumentError
from framefusion.reduction.budgets import Novelty
from framefusion.reduction.merging import Merging

T = TypeVar("T")

FLAT: dict[str, tuple[tuple[str, str], ...]] = {
    "similarity_lower_bound": (("merging", "similarity_lower_bound"), ("segmentation", "similarity_lower_bound")),
    "ratio_lower_bound": (("merging", "ratio_lower_bound"),),
    "segment_threshold": (("segmentation", "threshold"),),
    "segment_sudden": (("segmentation", "sudden"),),
    "segment_minimum": (("segmentation", "minimum"),),
    "segment_window": (("segmentation", "frames"),),
    "relevance_sign": (("relevance", "sign"),),
    "relevance_exponent": (("relevance", "exponent"),),
    "gamma": (("selector", "gamma"),),
    "later_frames": (("selector", "later_frames"),),
    "dropped_lower_bound": (("dropped", "lower_bound"),),
    "keep_lower_bound": (("novelty", "keep_lower_bound"),),
}
"""The field and its rule's parameter that a flat name is of; two where one value is for both."""

SWITCHES = {"merge": "merging", "novelty_lower_bound": "novelty"}
"""Flat names that turn a rule on: the field of the rule."""


def nested(cls: Any, given: Mapping[str, Any], *, lenient: bool = False) -> dict[str, Any]:
    """Settings whose flat names have gone into the rules.

    Args:
        cls: the dataclass, with a :class:`~framefusion.reduction.rules.RuleField` for each rule.
        given: values by name, flat or not.
        lenient: whether a name goes unheard where the rules in use have no such parameter, as in a file that says
            everything.

    Raises:
        ValueError: no rule in use has the parameter, or one refuses the value; names the flat name.
    """
    values = {name: value for name, value in given.items() if name not in FLAT and name not in SWITCHES}

    def rule(field: str) -> Any:
        own = vars(cls).get(field) or next(vars(base)[field] for base in cls.__mro__ if field in vars(base))
        return own.means(field, values.get(field, own.default))

    if "merge" in given:
        check_flag("merge", given["merge"])
        values["merging"] = (rule("merging") or Merging()) if given["merge"] else None
    if "novelty_lower_bound" in given:
        bound, now = given["novelty_lower_bound"], rule("novelty")
        values["novelty"] = _changed("novelty_lower_bound", now or Novelty(1.0), "lower_bound", bound)
    for name in [name for name in given if name in FLAT]:
        value, used = given[name], False
        for field, parameter in FLAT[name]:
            if hasattr(cls, field) and parameter in _parameters(now := rule(field)):
                values[field], used = _changed(name, now, parameter, value), True
        # Nothing to limit, nothing to reset.
        idle = value is None or (name == "keep_lower_bound" and value == 0)
        if not (used or lenient or idle):
            of = " or ".join(f"{field}.{parameter}" for field, parameter in FLAT[name])
            raise ArgumentError(
                f"{name}={value!r} is {of}, which the rules in use do not have; leave it out, or use one that has it."
            )
    return values


def _parameters(rule: Any) -> list[str]:
    return [field.name for field in fields(rule)] if is_dataclass(rule) else []


def _changed(name: str, rule: Any, parameter: str, value: Any) -> Any:
    """The rule with another value; None resets a threshold, and turns what goes by novelty off."""
    if value is None and name == "novelty_lower_bound":
        return None
    if value is None and parameter not in ("gamma", "sudden"):
        value = getattr(type(rule)(), parameter)
    try:
        return replace(rule, **{parameter: value})
    except ArgumentError as error:
        raise ArgumentError(f"{name}: {error}") from error


def with_flat_names(cls: type[T]) -> type[T]:
    """Let a dataclass be made with flat names as well."""
    plain = cls.__init__

    @functools.wraps(plain)
    def init(self: T, *args: Any, **given: Any) -> None:
        plain(self, *args, **nested(cls, given))

    setattr(cls, "__init__", init)  # noqa: B010
    return cls
