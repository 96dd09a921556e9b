"""What counts as a number."""

from fractions import Fraction

import numpy as np
import pytest

from framefusion.checks import is_number, is_whole


@pytest.mark.parametrize(
    ("value", "whole", "number"),
    [
        (3, True, True),
        (np.int64(3), True, True),
        (np.uint8(3), True, True),
        (2.5, False, True),
        (2.0, False, True),
        (np.float32(2.5), False, True),
        (float("nan"), False, True),
        (Fraction(1, 2), False, True),
        (True, False, False),
        (np.bool_(True), False, False),
        ("3", False, False),
        (1j, False, False),
        (None, False, False),
        ([3], False, False),
    ],
)
def test_numbers(value, whole, number):
    assert is_whole(value) is whole
    assert is_number(value) is number
