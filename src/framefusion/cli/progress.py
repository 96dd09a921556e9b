"""Progress of a command on stderr: a spinner or bars on a terminal, else nothing, or a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

from framefusion.progress import Progress, Silent

EVERY_SECONDS = 30.0
"""How often progress is told where there is no terminal."""


@contextmanager
def spinner(*, otherwise: str | None = None) -> Iterator[Callable[[str], Any]]:
    """A function that names the step under way, beside a spinner on a terminal.

    Args:
        otherwise: a line where there is no terminal; default nothing.
    """
    if not sys.stderr.isatty():
        if otherwise is not None:
            on_stderr(otherwise)
        yield lambda step: None
        return
    from rich.console import Console

    with Console(stderr=True).status("Starting") as status:
        yield lambda step: status.update(f"{step} …")


@contextmanager
def bars(*, rate: bool = False, otherwise: Progress | None = None) -> Iterator[Progress]:
    """Bars with the time that is left on a terminal.

    Args:
        rate: show parts a second, too.
        otherwise: what to tell where there is no terminal; default nothing.
    """
    if not sys.stderr.isatty():
        yield Silent() if otherwise is None else otherwise
        return
    from framefusion.cli.bars import Bars

    with Bars(rate) as shown:
        yield shown


def on_stderr(text: str) -> None:
    """A line for whoever reads the log."""
    typer.echo(f"framefusion: {text}", err=True)


class Lines:
    """Progress as text; a :class:`framefusion.progress.Progress`.

    Args:
        tell: told each line.
        clock: seconds that only grow.
    """

    def __init__(self, tell: Callable[[str], None] = on_stderr, clock: Callable[[], float] = time.monotonic) -> None:
        self._tell, self._clock = tell, clock
        self._total: int | None = None
        self._done = 0
        self._begin = self._told = clock()

    def step(self, name: str, total: int | None = None) -> None:
        """Begin a step; nothing is told of one without parts."""
        self._total, self._done = total, 0
        self._begin = self._told = self._clock()

    def advance(self, parts: int) -> None:
        """So many parts of the step are done."""
        self._done += parts
        now = self._clock()
        if self._total is None or self._done <= 0 or now - self._told < EVERY_SECONDS:
            return
        self._told = now
        rate = self._done / (now - self._begin)
        left = round((self._total - self._done) / rate)
        self._tell(
            f"{self._done} of {self._total} rows, {rate:.3g} a second, about "
            f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
        )
