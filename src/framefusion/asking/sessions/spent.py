"""What the parts of one call of a session take, while it runs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import TypeVar

from framefusion.hf.timing import Times

T = TypeVar("T")


class Spent:
    """Seconds of the parts of a call so far.

    Attributes:
        times: of decoding and the processor, which cost nothing to know, and of what is inside the model where a clock
            runs with it.
    """

    def __init__(self) -> None:
        self.times = Times()
        self._begin = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.perf_counter() - self._begin

    def each(self, parts: Iterable[T]) -> Iterator[T]:
        """The same items; what waiting for them takes is decoding."""
        items = iter(parts)
        while True:
            begin = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self._add(Times(decode=time.perf_counter() - begin))
            yield item

    @contextmanager
    def processing(self) -> Iterator[None]:
        """What is inside is the processor's."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._add(Times(processor=time.perf_counter() - begin))

    def inside(self, times: Times | None) -> None:
        """What a model's prefills took; None where nobody measured."""
        if times is not None:
            self._add(times)

    def told(self, first_token: float | None = None, per_token: float | None = None) -> Times:
        """The parts, with the rest of what is known inside.

        Args:
            first_token: seconds from the beginning to the first token, for an answer.
            per_token: of every further one.
        """
        measured = self.times.prefill is not None
        whole = self.seconds if first_token is None else first_token
        other = max(0.0, whole - sum(self.times.parts.values())) if measured else None
        return replace(self.times, other=other, per_token=per_token, first_token=first_token)

    def _add(self, times: Times) -> None:
        self.times = self.times.plus(times)


_running: ContextVar[Spent | None] = ContextVar("framefusion_spent", default=None)


@contextmanager
def measured() -> Iterator[Spent]:
    """Measure a call."""
    spent = Spent()
    token = _running.set(spent)
    try:
        yield spent
    finally:
        _running.reset(token)


def current() -> Spent:
    """Of the call under way; of none where none is measured."""
    return _running.get() or Spent()
