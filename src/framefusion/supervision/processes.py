"""Processes on this machine, each with a pipe: its end tells each side at once that the other one is gone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Protocol

from framefusion.supervision.schedule import Answered, Died, News, Progressed, Ready, Refused, Told

GRACE = 5.0
"""Seconds that a process has to end before it is killed."""


class Worker(Protocol):
    """What runs in a process."""

    @property
    def description(self) -> str:
        """Which model it has."""

    def answer(self, job: Any, told: Told) -> Any:
        """Do a job and return what is picklable. An exception means that this process can do no further one.

        Args:
            job: as it was submitted.
            told: to be called with the number of parts that were just done, if there are any.
        """


class Processes:
    """A :class:`framefusion.supervision.schedule.Pool` of new interpreters. A context: they end with it.

    They end as well when this process does, however that happens: while they wait at once, else when they have
    something to tell. They do not answer to Ctrl-C, which reaches every process of a terminal: this one does.

    Args:
        make: makes what runs in a process, given its number, from 1; picklable.
    """

    def __init__(self, make: Callable[[int], Worker]) -> None:
        self._make = make
        self._context = multiprocessing.get_context("spawn")
        self._running: dict[int, tuple[BaseProcess, Connection]] = {}
        self._started = 0

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # All are told before the first is waited for.
        for process, _ in self._running.values():
            process.terminate()
        for worker in list(self._running):
            self.stop(worker)

    def start(self) -> int:
        self._started += 1
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(self._make, self._started, theirs), daemon=True)
        with _interrupts_deferred():
            process.start()
            self._running[self._started] = process, ours
        # With a second holder of this end, ours would never see the process go.
        theirs.close()
        return self._started

    def submit(self, worker: int, job: Any) -> None:
        # One that has died cannot take it; wait() finds that out.
        with suppress(OSError):
            self._running[worker][1].send(job)

    def wait(self) -> tuple[int, News]:
        numbers = {connection: worker for worker, (_, connection) in self._running.items()}
        connection: Any = wait(list(numbers))[0]
        worker = numbers[connection]
        # Whoever was heard goes to the end, or one with much to tell would silence the others.
        self._running[worker] = self._running.pop(worker)
        try:
            return worker, connection.recv()
        except (EOFError, OSError):
            # Its end of the pipe closes a moment before it is gone.
            process, _ = self._running[worker]
            process.join(GRACE)
            return worker, Died(_how(process.exitcode))

    def stop(self, worker: int) -> None:
        process, connection = self._running.pop(worker)
        connection.close()
        process.terminate()
        process.join(GRACE)
        if process.exitcode is None:
            process.kill()
            process.join()


def _how(code: int | None) -> str:
    if code is None:
        return "a process does not answer any more"
    if code >= 0:
        return f"a process ended with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"a process was ended by {name}"


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Ctrl-C waits: it must not come between a process and our knowing it, and new processes inherit that."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Its first start would unblock the signal again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(make: Callable[[int], Worker], number: int, connection: Connection) -> None:
    """What runs in a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def tell(news: News) -> None:
        try:
            connection.send(news)
        except OSError:
            # Nobody listens any more. Without unwinding: the caller would take it for an error of its own.
            os._exit(1)

    def told(parts: int) -> None:
        tell(Progressed(parts))

    try:
        worker = make(number)
        tell(Ready(worker.description))
        while True:
            try:
                job = connection.recv()
            except (EOFError, OSError):
                return
            tell(Answered(worker.answer(job, told)))
    except Exception as error:
        tell(Refused(f"{error}" or type(error).__name__, traceback.format_exc()))
