"""The design by which a part of all combinations of parameters is chosen."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, product

import pytest

from tests.covering import covering

AXES = (range(40), "abcd", (True, False))


def test_every_value_is_in_a_row_and_takes_its_turn() -> None:
    rows = list(product(*AXES))
    chosen = [rows[index] for index in covering(rows, 1)]
    assert len(chosen) == 40
    assert [number for number, _, _ in chosen] == list(AXES[0])
    # All eight combinations of the others, equally often.
    assert set(Counter(row[1:] for row in chosen).values()) == {5}


@pytest.mark.parametrize("strength", [1, 2, 3])
def test_every_combination_of_so_many_values_is_in_a_row(strength: int) -> None:
    rows = [row for row in product(range(7), range(3), range(3), range(2)) if row[:2] != (4, 1)]
    chosen = [rows[index] for index in covering(rows, strength)]
    for columns in combinations(range(4), strength):

        def parts(of: list[tuple[int, ...]], columns: tuple[int, ...] = columns) -> set[tuple[int, ...]]:
            return {tuple(row[column] for column in columns) for row in of}

        assert parts(chosen) == parts(rows)
    assert len(chosen) < len(rows)


def test_pairs_need_little_more_than_the_two_longest_columns_have() -> None:
    rows = list(product(range(6), range(5), range(3), range(2)))
    assert 30 <= len(covering(rows, 2)) <= 36


@pytest.mark.parametrize("strength", [1, 2])
def test_one_column_stays_whole(strength: int) -> None:
    assert covering([("a",), ("b",), ("c",)], strength) == [0, 1, 2]
