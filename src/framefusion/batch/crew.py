"""Rows for several processes: who gets which, what happens when one dies, and how far they may run ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from framefusion.batch.answering import Result
from framefusion.batch.rows import BatchError, Row

DEATHS = 3
"""So many processes may die over one row before it becomes an error, or in a row while they load the model."""

AHEAD = 16
"""With ordered output, rows for each process that may be taken beyond the oldest that has no result yet."""

Confirm = Callable[[str], None]
"""Told which model a process has loaded; raises :class:`BatchError` if it is not the one of the batch."""


@dataclass(frozen=True)
class Ready:
    """A process has loaded its model."""

    description: str


@dataclass(frozen=True)
class Answered:
    """A process is done with its row."""

    result: Result


@dataclass(frozen=True)
class Refused:
    """A process cannot load the model, or cannot answer any more."""

    reason: str


@dataclass(frozen=True)
class Died:
    """A process is gone."""

    reason: str


News = Ready | Answered | Refused | Died


class Crew(Protocol):
    """Processes, each with a model and a number by which it is known. Each has one row at most."""

    def hire(self) -> int:
        """Start one, which loads the model."""

    def ask(self, worker: int, row: Row) -> None:
        """Give a row to one that has none."""

    def wait(self) -> tuple[int, News]:
        """The next that has something to tell."""

    def dismiss(self, worker: int) -> None:
        """End one, which may have ended already."""


@dataclass
class _Job:
    position: int
    row: Row
    deaths: int = 0


def answers(
    crew: Crew, size: int, rows: Iterable[Row], confirm: Confirm, *, ordered: bool = True
) -> Iterator[tuple[Row, Result]]:
    """Each row with its result. No more rows are taken than there are processes, and with ``ordered`` at most
    ``AHEAD * size`` beyond the last that was handed out.

    Args:
        crew: whom to ask.
        size: how many processes to keep.
        rows: what to ask.
        confirm: told the model of every process.
        ordered: in the order of ``rows``, else as they come.

    Raises:
        BatchError: the model cannot be loaded, or the processes die while they load it.
    """
    return _Shift(crew, size, iter(rows), confirm, ordered).run()


class _Shift:
    def __init__(self, crew: Crew, size: int, rows: Iterator[Row], confirm: Confirm, ordered: bool) -> None:
        self.crew, self.rows, self.confirm, self.ordered = crew, rows, confirm, ordered
        self.window = AHEAD * size
        self.loading = {crew.hire() for _ in range(size)}
        self.idle: list[int] = []
        self.busy: dict[int, _Job] = {}
        self.again: deque[_Job] = deque()
        self.held: dict[int, tuple[Row, Result]] = {}
        self.taken = self.handed = self.failed_starts = 0
        self.more = True

    def run(self) -> Iterator[tuple[Row, Result]]:
        while True:
            # Before results are handed out, so that nobody waits while they are written; and behind each, which may be
            # the one that kept others from being taken.
            self._assign()
            for result in self._results():
                yield result
                self._assign()
            if not (self.more or self.again or self.busy):
                return
            self._hear(*self.crew.wait())

    def _assign(self) -> None:
        while self.idle and (job := self._next()) is not None:
            worker = self.idle.pop()
            self.busy[worker] = job
            self.crew.ask(worker, job.row)

    def _next(self) -> _Job | None:
        if self.again:
            return self.again.popleft()
        if not self.more or (self.ordered and self.taken - self.handed >= self.window):
            return None
        row = next(self.rows, None)
        if row is None:
            self.more = False
            return None
        self.taken += 1
        return _Job(self.taken - 1, row)

    def _results(self) -> Iterator[tuple[Row, Result]]:
        while self.held:
            position = self.handed if self.ordered else next(iter(self.held))
            if position not in self.held:
                return
            self.handed += 1
            yield self.held.pop(position)

    def _hear(self, worker: int, news: News) -> None:
        if isinstance(news, Ready):
            self.confirm(news.description)
            self.failed_starts = 0
            self.loading.remove(worker)
            self.idle.append(worker)
        elif isinstance(news, Answered):
            job = self.busy.pop(worker)
            self.held[job.position] = job.row, news.result
            self.idle.append(worker)
        elif worker in self.loading:
            self._failed_start(worker, news)
        else:
            self._lost(worker, news.reason)

    def _failed_start(self, worker: int, news: Refused | Died) -> None:
        self.failed_starts += 1
        if isinstance(news, Refused):
            raise BatchError(news.reason)
        if self.failed_starts >= DEATHS:
            raise BatchError(f"{DEATHS} processes in a row died while they loaded the model: {news.reason}")
        self._replace(worker)

    def _lost(self, worker: int, reason: str) -> None:
        job = self.busy.pop(worker, None)
        if job is None:
            self.idle.remove(worker)
        else:
            job.deaths += 1
            if job.deaths < DEATHS:
                self.again.append(job)
            else:
                self.held[job.position] = job.row, {"error": f"{DEATHS} processes died over it: {reason}"}
        self._replace(worker)

    def _replace(self, worker: int) -> None:
        self.loading.discard(worker)
        self.crew.dismiss(worker)
        self.loading.add(self.crew.hire())
