"""What a vision tower may leave out: the rules by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from framefusion.errors import ArgumentError
from framefusion.reduction.changes import Changed
from framefusion.reduction.rules import name_of
from framefusion.reduction.tome import ToMe

TOWERS: dict[str, Any] = {"changed": Changed(), "tome": ToMe()}
"""The rules by name, as they are without parameters. A number behind the name and a colon is the first parameter."""


def tower_of(field: str, given: Any) -> Changed | ToMe | None:
    """What the field ``tower`` means: None, a rule, its name, or ``"NAME:NUMBER"`` for its first parameter.

    Raises:
        ValueError: it is none of these; names the field.
    """
    if given is None or any(type(given) is type(rule) for rule in TOWERS.values()):
        return given
    name, colon, number = given.partition(":") if isinstance(given, str) else ("", "", "")
    rule = TOWERS.get(name)
    if rule is None:
        known = ", ".join(f"{name!r}, '{name}:{fields(own)[0].name.upper()}'" for name, own in TOWERS.items())
        raise ArgumentError(f"{field} must be None (encode everything), {known}, a Changed or a ToMe, got {given!r}.")
    if not colon:
        return rule
    what = fields(rule)[0].name
    try:
        first = float(number)
    except ValueError:
        raise ArgumentError(f"{field}={given!r}: the {what} must be a number behind the colon.") from None
    try:
        return type(rule)(first)
    except ArgumentError as error:
        raise ArgumentError(f"{field}={given!r}: {error}") from error


def tower_name(rule: Changed | ToMe) -> str:
    """The name of a rule."""
    return name_of(rule, TOWERS)


def tower_text(rule: Changed | ToMe) -> str:
    """A rule as text that means it: its name, and its first parameter where that is not the default."""
    name = tower_name(rule)
    first = fields(rule)[0].name
    number = getattr(rule, first)
    return name if number == getattr(TOWERS[name], first) else f"{name}:{number:g}"
