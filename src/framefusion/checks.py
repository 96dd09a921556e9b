"""Which values count as numbers. In Python ``True`` is one, as an argument it is a mistake."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, TypeGuard


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether it is a whole number: an int, or NumPy's."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a real number: an int, a float, or NumPy's. Infinities and NaN are."""
    return isinstance(value, Real) and not isinstance(value, bool)
