"""What comes next is made in a background thread while the last of it is worked on."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """The items of an iterable in their order, each begun before it is asked for; a context manager::

        with Ahead(read(path) for path in paths) as videos:
            for video in videos:
                ...  # the next one is read meanwhile

    While one item is worked on, ``depth`` others are made or wait, so that no more than ``depth + 1`` are in memory.
    What the iterable raises is raised in the place of the item, and ends it. Leaving the context, by an error or an
    interrupt too, waits for what is being made, begins nothing more, and closes a generator.

    Args:
        items: taken in one background thread, one item at a time.
        depth: at least 0; with 0 there is no thread, and every item is made when it is asked for.
    """

    def __init__(self, items: Iterable[T], depth: int = 1) -> None:
        self._items, self._depth = iter(items), depth
        # An interrupt may come where a thread is begun and not yet known to the pool.
        self._taking, self._over = threading.Lock(), False
        self._pool = ThreadPoolExecutor(1, "framefusion-ahead") if depth else None
        self._waiting: deque[Future[T]] = deque()

    def __enter__(self) -> Ahead[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._waiting.clear()
        close = getattr(self._items, "close", None)
        if close is not None:
            with self._taking:
                close()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._pool is None:
            return next(self._items)
        if not self._waiting:
            self._begin()
        item = _result(self._waiting.popleft())
        while len(self._waiting) < self._depth:
            self._begin()
        return item

    def _begin(self) -> None:
        assert self._pool is not None
        self._waiting.append(self._pool.submit(self._take))

    def _take(self) -> T:
        with self._taking:
            if self._over:
                raise _Ended
            try:
                return next(self._items)
            except StopIteration:
                raise _Ended from None


class _Ended(Exception):  # noqa: N818
    """The iterable has no more; a ``StopIteration`` would mean something else to a future."""


def _result(made: Future[T]) -> T:
    try:
        return made.result()
    except _Ended:
        raise StopIteration from None


def attempt(function: Callable[..., T], *arguments: Any) -> Callable[[], T]:
    """Call a function now; what is returned then returns, or raises, what it did, as often as it is called."""
    try:
        value = function(*arguments)
    except Exception as error:
        caught = error

        def fail() -> T:
            raise caught

        return fail
    return lambda: value
