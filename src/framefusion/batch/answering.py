"""What becomes of one row, whatever the model. Imports no model, so that whoever only hands out rows loads none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from framefusion.batch.rows import BatchError, Row, RowError

logger = logging.getLogger(__name__)

Result = dict[str, Any]
"""What a row becomes, without its line, id and fingerprint."""


class Answerer(Protocol):
    """A model that answers one question after the other."""

    @property
    def description(self) -> str:
        """Which model it is; the same in every process of a batch."""

    def prepare(self, media: Sequence[str]) -> Any:
        """What can be done for the rows about some media before they are asked: called in another thread while an
        earlier row is answered. What it raises belongs to those rows."""

    def answer(self, media: Sequence[str], question: str, prepared: Callable[[], Any] | None = None) -> Result:
        """The answer to a question about some videos and photographs, and what it took.

        Args:
            media: addresses or absolute paths.
            question: what to ask.
            prepared: gives, or raises, what :meth:`prepare` did for these media; None where it was not called.

        Raises:
            RowError: this row cannot be answered.
            BatchError: no further row can be answered in this process.
        """


Make = Callable[[], Answerer]
"""Makes the answerer of a process; picklable where there are several."""


def result_of(answerer: Answerer, row: Row, prepared: Callable[[], Any] | None = None) -> Result:
    """What a row becomes: an answer, or ``{"error": reason}``, whatever the answerer raises.

    Args:
        answerer: asked.
        row: the question.
        prepared: as for :meth:`Answerer.answer`.

    Raises:
        BatchError: the process cannot answer any more.
    """
    if not row.media:
        return {"error": row.problem}
    try:
        return answerer.answer(row.media, row.question, prepared)
    except BatchError as error:
        raise BatchError(f"line {row.line}: {error}") from error
    except RowError as error:
        return {"error": _one_line(error)}
    except Exception as error:
        logger.info("line %d cannot be answered", row.line, exc_info=True)
        return {"error": f"{type(error).__name__}: {_one_line(error)}"}


def _one_line(error: BaseException) -> str:
    """A text that UTF-8 can hold."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.encode(errors="replace").decode()
