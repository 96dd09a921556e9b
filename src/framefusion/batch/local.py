"""One row after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from framefusion.ahead import Ahead, attempt
from framefusion.batch.answering import Answerer, Make, Result, result_of
from framefusion.batch.rows import Row, together
from framefusion.supervision import Confirm


@dataclass(frozen=True)
class Local:
    """The engine unless said otherwise.

    Attributes:
        ahead: whether the next video is decoded while the model works on this one; two of them are in memory then.
    """

    ahead: bool = True

    def answers(
        self, make: Make, rows: Iterable[Row], count: int, confirm: Confirm, ordered: bool
    ) -> Iterator[tuple[Row, Result]]:
        """See :class:`framefusion.batch.run.Engine`; the order is always that of the rows."""
        answerer = make()
        confirm(answerer.description)
        with Ahead(_prepared(answerer, rows), depth=int(self.ahead)) as groups:
            for group, prepared in groups:
                for row in group:
                    yield row, result_of(answerer, row, prepared)


def _prepared(answerer: Answerer, rows: Iterable[Row]) -> Iterator[tuple[list[Row], Callable[[], Any]]]:
    """Rows about the same media that follow each other, and what was prepared for them."""
    for group in together(rows):
        media = group[0].media
        yield group, attempt(answerer.prepare, media) if media else lambda: None
