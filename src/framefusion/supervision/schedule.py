"""Jobs for several processes: who gets which, what happens when one dies, and how far they may run ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from framefusion.errors import FrameFusionError

Job = TypeVar("Job")
Result = TypeVar("Result")

DEATHS = 3
"""So many processes may die over one job before it is lost, or in a row while they load the model."""

AHEAD = 16
"""With ordered output, jobs for each process that may be taken beyond the oldest that has no result yet."""

Confirm = Callable[[str], None]
"""Told which model a process has loaded; raises if it is not the one that it should be."""
Told = Callable[[int], None]
"""Told how many parts of a job were just done; a negative number takes back what a process did that died."""


class WorkerError(FrameFusionError, RuntimeError):
    """The processes cannot load their model, or die while they do. The text is one sentence."""


@dataclass(frozen=True)
class Ready:
    """A process has loaded its model."""

    description: str


@dataclass(frozen=True)
class Progressed:
    """A process has done so many parts of its job, and goes on with it."""

    parts: int


@dataclass(frozen=True)
class Answered:
    """A process is done with its job."""

    result: Any


@dataclass(frozen=True)
class Refused:
    """A process cannot load the model, or cannot answer any more; ``trace`` says where."""

    reason: str
    trace: str = ""


@dataclass(frozen=True)
class Died:
    """A process is gone."""

    reason: str


News = Ready | Progressed | Answered | Refused | Died


class Pool(Protocol):
    """Processes, each with a model and a number by which it is known. Each has one job at most."""

    def start(self) -> int:
        """Start one, which loads the model."""

    def submit(self, worker: int, job: Any) -> None:
        """Give a job to one that has none."""

    def wait(self) -> tuple[int, News]:
        """The next that has something to tell."""

    def stop(self, worker: int) -> None:
        """End one, which may have ended already."""


def _accept(description: str) -> None:
    pass


def _ignore(parts: int) -> None:
    pass


def results(
    pool: Pool,
    size: int,
    jobs: Iterable[Job],
    lost: Callable[[str], Result],
    *,
    confirm: Confirm = _accept,
    told: Told = _ignore,
    ordered: bool = True,
) -> Iterator[tuple[Job, Result]]:
    """Each job with its result. A job whose process dies is given to another, up to :data:`DEATHS` times.

    No more jobs are taken than there are processes, and with ``ordered`` at most ``AHEAD * size`` beyond the last
    that was handed out.

    Args:
        pool: the processes; whoever made it ends them.
        size: how many to keep.
        jobs: what to do.
        lost: makes the result of a job over which too many processes died, given how the last one did.
        confirm: told the model of every process.
        told: told of progress inside a job.
        ordered: in the order of ``jobs``, else as they come.

    Raises:
        WorkerError: the model cannot be loaded, or the processes die while they load it.
    """
    return _Schedule(pool, size, iter(jobs), lost, confirm, told, ordered).run()


@dataclass
class _Task(Generic[Job]):
    """A job under way: its position among all, what is done of it, and how many processes died over it."""

    position: int
    job: Job
    parts: int = 0
    deaths: int = 0


class _Schedule(Generic[Job, Result]):
    def __init__(
        self,
        pool: Pool,
        size: int,
        jobs: Iterator[Job],
        lost: Callable[[str], Result],
        confirm: Confirm,
        told: Told,
        ordered: bool,
    ) -> None:
        self.pool, self.jobs, self.lost = pool, jobs, lost
        self.confirm, self.told, self.ordered = confirm, told, ordered
        self.window = AHEAD * size
        self.loading = {pool.start() for _ in range(size)}
        self.idle: list[int] = []
        self.busy: dict[int, _Task[Job]] = {}
        self.again: deque[_Task[Job]] = deque()
        self.done: dict[int, tuple[Job, Result]] = {}
        self.taken = self.handed = self.failed_starts = 0
        self.more = True

    def run(self) -> Iterator[tuple[Job, Result]]:
        while True:
            # Before results are handed out, so that nobody waits while they are written; and behind each, which may be
            # the one that kept others from being taken.
            self._assign()
            for result in self._results():
                yield result
                self._assign()
            if not (self.more or self.again or self.busy):
                return
            self._hear(*self.pool.wait())

    def _assign(self) -> None:
        while self.idle and (task := self._next()) is not None:
            worker = self.idle.pop()
            self.busy[worker] = task
            self.pool.submit(worker, task.job)

    def _next(self) -> _Task[Job] | None:
        if self.again:
            return self.again.popleft()
        if not self.more or (self.ordered and self.taken - self.handed >= self.window):
            return None
        for job in self.jobs:
            self.taken += 1
            return _Task(self.taken - 1, job)
        self.more = False
        return None

    def _results(self) -> Iterator[tuple[Job, Result]]:
        while self.done:
            position = self.handed if self.ordered else next(iter(self.done))
            if position not in self.done:
                return
            self.handed += 1
            yield self.done.pop(position)

    def _hear(self, worker: int, news: News) -> None:
        if isinstance(news, Ready):
            self.confirm(news.description)
            self.failed_starts = 0
            self.loading.remove(worker)
            self.idle.append(worker)
        elif isinstance(news, Progressed):
            self.busy[worker].parts += news.parts
            self.told(news.parts)
        elif isinstance(news, Answered):
            task = self.busy.pop(worker)
            self.done[task.position] = task.job, news.result
            self.idle.append(worker)
        elif worker in self.loading:
            self._failed_start(worker, news)
        else:
            self._lost(worker, news.reason)

    def _failed_start(self, worker: int, news: Refused | Died) -> None:
        self.failed_starts += 1
        if isinstance(news, Refused):
            raise WorkerError(news.reason) from (RuntimeError(news.trace) if news.trace else None)
        if self.failed_starts >= DEATHS:
            raise WorkerError(f"{DEATHS} processes in a row died while they loaded the model: {news.reason}")
        self._replace(worker)

    def _lost(self, worker: int, reason: str) -> None:
        task = self.busy.pop(worker, None)
        if task is None:
            self.idle.remove(worker)
        else:
            task.deaths += 1
            if task.parts:
                self.told(-task.parts)
                task.parts = 0
            if task.deaths < DEATHS:
                self.again.append(task)
            else:
                self.done[task.position] = task.job, self.lost(f"{DEATHS} processes died over it: {reason}")
        self._replace(worker)

    def _replace(self, worker: int) -> None:
        self.loading.discard(worker)
        self.pool.stop(worker)
        self.loading.add(self.pool.start())
