"""One row after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from framefusion.batch.answering import Make, Result, result_of
from framefusion.batch.rows import Row
from framefusion.supervision import Confirm


@dataclass(frozen=True)
class Local:
    """The engine unless said otherwise."""

    def answers(
        self, make: Make, rows: Iterable[Row], count: int, confirm: Confirm, ordered: bool
    ) -> Iterator[tuple[Row, Result]]:
        """See :class:`framefusion.batch.run.Engine`; the order is always that of the rows."""
        answerer = make()
        confirm(answerer.description)
        for row in rows:
            yield row, result_of(answerer, row)
