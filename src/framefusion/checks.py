"""Which values count as numbers, and the errors. In Python ``True`` is one, as an argument it is a mistake."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, TypeGuard

from framefusion.errors import ArgumentError


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether it is a whole number: an int, or NumPy's."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a real number: an int, a float, or NumPy's. Infinities and NaN are."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_number(name: str, value: Any, low: float, high: float, *, open_below: bool = False) -> None:
    """Refuse what is no number in ``[low, high]``, or ``(low, high]``."""
    if not is_number(value):
        raise ArgumentError(f"{name} must be a number, got {value!r}.")
    if not (low <= float(value) <= high) or (open_below and value == low):
        raise ArgumentError(f"{name} must be in {'(' if open_below else '['}{low}, {high}], got {value}.")


def check_whole(name: str, value: Any, of: str, least: int) -> None:
    """Refuse what is no whole number from ``least`` on; ``of`` says what is counted."""
    if not is_whole(value) or value < least:
        raise ArgumentError(f"{name} must be a whole number of {of}, at least {least}, got {value!r}.")


def check_flag(name: str, value: Any) -> None:
    """Refuse what is neither True nor False."""
    if not isinstance(value, bool):
        raise ArgumentError(f"{name} must be True or False, got {value!r}.")
