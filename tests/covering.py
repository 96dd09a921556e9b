"""Which combinations of a test's parameters are run where all of them would take too long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import combinations


def covering(rows: Sequence[Sequence[Hashable]], strength: int) -> list[int]:
    """Rows such that every ``strength`` values that stand together in some row stand together in a chosen one.

    With strength 1 every value of every parameter is in a chosen row, with 2 every pair of values of two parameters.
    Rows are taken one after the other, each with the most of what is not covered yet; of equals the one whose
    combinations of one value more were taken least, then the one whose values were, then the first. So the values of
    the other parameters take turns along the longest one, and the same rows are chosen everywhere.

    Args:
        rows: the values of all parameters, for each combination of them.
        strength: at least 1; the number of columns, or more, leaves nothing out.

    Returns:
        Their indices, ascending.
    """
    wanted = [_parts(row, min(strength, len(row))) for row in rows]
    beyond = [_parts(row, strength + 1) for row in rows]
    alone = [_parts(row, 1) for row in rows]
    left: set[object] = set().union(*wanted)
    taken: Counter[object] = Counter()
    chosen: list[int] = []

    def worth(index: int) -> tuple[int, int, int, int]:
        together, single = (sum(taken[part] for part in own[index]) for own in (beyond, alone))
        return len(wanted[index] & left), -together, -single, -index

    while left:
        best = max(range(len(rows)), key=worth)
        chosen.append(best)
        left -= wanted[best]
        taken.update(beyond[best] | alone[best])
    return sorted(chosen)


def _parts(row: Sequence[Hashable], size: int) -> set[object]:
    """What stands in ``size`` columns of a row, with the numbers of the columns."""
    return set(combinations(enumerate(row), size))
