"""A batch from beginning to end, or from where the last one ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from framefusion.batch.answering import Answerer, Make, Result
from framefusion.batch.local import Local
from framefusion.batch.rows import BatchError, Row, by_media, fingerprints, read_rows
from framefusion.batch.store import Finished, Results
from framefusion.progress import Progress, Silent
from framefusion.supervision import Confirm

if TYPE_CHECKING:
    from framefusion.batch.plan import Plan


class Engine(Protocol):
    """Where the rows are answered."""

    def answers(
        self, make: Make, rows: Iterable[Row], count: int, confirm: Confirm, ordered: bool
    ) -> Iterator[tuple[Row, Result]]:
        """Each row with its result. Takes rows only when it can work on them.

        Args:
            make: makes the answerer of a process.
            rows: what to answer.
            count: how many there are.
            confirm: told the model of every process before it gets a row.
            ordered: in the order of ``rows``, else as they come.

        Raises:
            BatchError: the batch cannot go on.
        """


@dataclass(frozen=True)
class Summary:
    """What a batch did.

    Attributes:
        rows: questions in the file.
        found: of these, how many had a result before.
        answered: how many got an answer now.
        errors: how many got an error now.
        first_error: the first of them, with its line; None without any.
        seconds: from the first row to the last, without loading the model.
        model: which one; None if there was nothing to do.
    """

    rows: int
    found: int
    answered: int
    errors: int
    first_error: str | None
    seconds: float
    model: str | None


@dataclass(frozen=True)
class _Making:
    """A :data:`framefusion.batch.answering.Make` that other processes can have."""

    plan: Plan
    prepare: Callable[[], None] | None

    def __call__(self) -> Answerer:
        if self.prepare is not None:
            self.prepare()
        from framefusion.batch.plan import ModelAnswerer

        return ModelAnswerer(self.plan)


def run(
    data: Path,
    out: Path,
    plan: Plan | None = None,
    *,
    engine: Engine | None = None,
    ordered: bool = True,
    command: str = "framefusion.batch.run",
    progress: Progress | None = None,
    prepare: Callable[[], None] | None = None,
    make: Make | None = None,
) -> Summary:
    """Answer every row of a file that has no result yet, and write each result at once.

    Killed at any moment, the same call goes on: nothing that was written is lost or answered again.

    Args:
        data: the questions, one JSON object a line, see :func:`framefusion.batch.rows.read_rows`.
        out: the results, one JSON object a line, see ``docs/guides/batch.md``; how they were made is written beside it.
        plan: how to answer; default ``Plan()``.
        engine: where; default :class:`~framefusion.batch.local.Local`, one row after the other in this process.
        ordered: write results in the order of the questions that are left, else as they come.
        command: how to repeat it, for whoever reads the results.
        progress: told what is under way.
        prepare: called in every process before it loads the model; a function of a module.
        make: makes the answerer of a process in place of the plan's model; picklable for an engine with several.

    Returns:
        What was done. A row that cannot be answered is an error in the results, not of the batch.

    Raises:
        BatchError: the questions cannot be read or are not those of the results, ``out`` cannot be written or was made
            with other settings or another model, or the model cannot be loaded.
    """
    from framefusion.asking.provenance import versions
    from framefusion.batch.plan import Plan

    plan, progress = plan or Plan(), progress or Silent()
    progress.step("Reading the questions")
    if next(fingerprints(data), None) is None:
        raise BatchError(f"{data} holds no questions")
    with Results(out) as results:
        results.check(plan.identity())
        finished = results.finished()
        rows = _count(data, out, finished)
        left = rows - finished.count
        tally = _Tally(rows, finished.count)
        if not left:
            return tally.summary()
        progress.step("Loading the model, compiling unless that was done before")

        def confirm(model: str) -> None:
            results.describe(
                {**plan.identity(), "model": model},
                {"questions": str(data), "command": command, "versions": versions()},
            )
            if tally.model is None:
                tally.begin(model)
                progress.step("Answering", left)

        open_rows: Iterator[Row] = (row for row in read_rows(data) if row.line not in finished)
        if plan.share and not ordered:
            open_rows = by_media(open_rows)
        making: Make = _Making(plan, prepare) if make is None else make
        for row, result in (engine or Local()).answers(making, open_rows, left, confirm, ordered):
            results.add(row, result)
            tally.add(row, result)
            progress.advance(1)
    return tally.summary()


class _Tally:
    def __init__(self, rows: int, found: int) -> None:
        self.rows, self.found = rows, found
        self.answered = self.errors = 0
        self.first_error: str | None = None
        self.model: str | None = None
        self.started = time.monotonic()

    def begin(self, model: str) -> None:
        self.model, self.started = model, time.monotonic()

    def add(self, row: Row, result: Result) -> None:
        if "error" not in result:
            self.answered += 1
            return
        self.errors += 1
        if self.first_error is None:
            self.first_error = f"line {row.line}: {result['error'].removeprefix(f'line {row.line}').lstrip(': ')}"

    def summary(self) -> Summary:
        return Summary(
            self.rows,
            self.found,
            self.answered,
            self.errors,
            self.first_error,
            round(time.monotonic() - self.started, 3),
            self.model,
        )


def _count(data: Path, out: Path, finished: Finished) -> int:
    """How many rows there are; those with a result must be the ones that it is about."""
    rows = known = 0
    for line, fingerprint in fingerprints(data):
        rows += 1
        if line not in finished:
            continue
        known += 1
        if not finished.agrees(line, fingerprint):
            raise BatchError(
                f"line {line} of {data} is not the one that {out} has a result for; only add lines at the end, or "
                "choose another file for the results"
            )
    if known < finished.count:
        raise BatchError(
            f"{out} has results for lines that {data} does not have, such as {finished.last}; choose another file for "
            "the results"
        )
    return rows
