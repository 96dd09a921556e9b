"""Rules by name. A rule without parameters is its name; one with parameters is a frozen dataclass, and its name alone
stands for the defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

from framefusion.errors import ArgumentError

T = TypeVar("T")


def name_of(rule: Any, registry: Mapping[str, Any]) -> str:
    """The name of a rule that a registry has."""
    return rule if isinstance(rule, str) else next(name for name, own in registry.items() if type(own) is type(rule))


def rule_of(rule: str | Callable[..., T], registry: Mapping[str, Callable[..., T]]) -> Callable[..., T]:
    """What is called: the rule itself, or the one of its name."""
    return registry[rule] if isinstance(rule, str) else rule


def resolve(field: str, given: Any, registry: Mapping[str, Any]) -> Any:
    """The rule that a field's value means.

    Raises:
        ValueError: there is no such rule; names the field and those there are.
    """
    if isinstance(given, str) and given in registry:
        return registry[given] if is_dataclass(registry[given]) else given
    if is_dataclass(given) and any(type(given) is type(own) for own in registry.values()):
        return given
    raise ArgumentError(f"{field} must be one of {', '.join(map(repr, registry))}, got {given!r}.")


class RuleField:
    """A field of a dataclass that takes a rule, its name, or what else ``means`` understands, and holds the rule."""

    def __init__(self, default: Any, means: Callable[[str, Any], Any]) -> None:
        self.default, self.means = default, means

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object | None, owner: type) -> Any:
        return self.default if instance is None else instance.__dict__[self.name]

    def __set__(self, instance: object, value: Any) -> None:
        instance.__dict__[self.name] = self.means(self.name, value)


def rule_field(default: Any, means: Callable[[str, Any], T]) -> T:
    """A :class:`RuleField`, typed as what it holds."""
    return cast(T, RuleField(default, means))


def from_parts(field: str, kind: Any, parts: Mapping[str, Any]) -> Any:
    """``kind``, a rule or the class of one, with some parameters.

    Raises:
        ValueError: it has no such parameter, lacks one, or refuses a value; names the field.
    """
    known = [own.name for own in fields(kind)] if is_dataclass(kind) else []
    for name in parts:
        if name not in known:
            there = f"there are {', '.join(known)}" if known else "it has none"
            raise ArgumentError(f"{field} has no parameter {name!r} with this rule; {there}.")
    try:
        return kind(**parts) if isinstance(kind, type) else replace(kind, **parts)
    except TypeError as error:
        raise ArgumentError(f"{field} lacks a parameter; there are {', '.join(known)}.") from error
