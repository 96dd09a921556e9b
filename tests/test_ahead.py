"""What is made ahead: in order, bounded, errors in their places, nothing left running."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefusion.ahead import Ahead, attempt


class Source:
    """Numbers, with what was begun and whether it was closed; raises at one of them."""

    def __init__(self, count: int, bad: int = -1) -> None:
        self.count, self.bad, self.begun, self.closed = count, bad, 0, False
        self.threads: set[str] = set()

    def __iter__(self) -> Iterator[int]:
        try:
            for number in range(self.count):
                self.begun += 1
                self.threads.add(threading.current_thread().name.split("_")[0])
                if number == self.bad:
                    raise ValueError(f"bad {number}")
                yield number
        finally:
            self.closed = True


@given(count=st.integers(0, 12), depth=st.integers(0, 3), bad=st.integers(-1, 12))
def test_items_errors_and_bounds_are_those_of_the_iterable(count: int, depth: int, bad: int) -> None:
    source, seen = Source(count, bad), []

    def work() -> None:
        with Ahead(iter(source), depth) as items:
            for item in items:
                seen.append(item)
                assert source.begun <= item + 1 + depth

    if 0 <= bad < count:
        with pytest.raises(ValueError, match=f"bad {bad}"):
            work()
    else:
        work()
    assert seen == list(range(bad if 0 <= bad < count else count))
    assert source.closed
    assert "framefusion-ahead" not in {thread.name.split("_")[0] for thread in threading.enumerate()}


def test_the_next_item_is_made_while_this_one_is_worked_on() -> None:
    made = [threading.Event() for _ in range(3)]

    def source() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    with Ahead(source()) as items:
        for number in items:
            assert all(event.wait(30) for event in made[: number + 2])
            if number == 0:
                assert not made[2].is_set()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_leaving_early_ends_the_thread_and_the_source(error: type[BaseException]) -> None:
    source = Source(100)

    def work() -> None:
        with Ahead(iter(source), 2) as items:
            for number in items:
                if number == 3:
                    raise error

    with pytest.raises(error):
        work()
    assert source.closed
    assert source.begun <= 6
    assert source.threads == {"framefusion-ahead"}
    assert "framefusion-ahead" not in {thread.name.split("_")[0] for thread in threading.enumerate()}


def test_an_interrupt_before_the_pool_knows_its_thread_is_what_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool then does not wait for it, and a generator cannot be closed while it runs."""
    begun, go_on = threading.Event(), threading.Event()
    closed = []

    def items() -> Iterator[int]:
        try:
            begun.set()
            go_on.wait(10)
            yield 1
        finally:
            closed.append(True)

    ahead = Ahead(items())
    pool = ahead._pool
    assert pool is not None
    monkeypatch.setattr(pool, "shutdown", lambda **_: None)
    submit = pool.submit

    def interrupted(*given: Any) -> Any:
        submit(*given)
        begun.wait(10)
        threading.Timer(0.2, go_on.set).start()
        raise KeyboardInterrupt

    monkeypatch.setattr(pool, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt), ahead:
        next(ahead)
    assert closed == [True]


def test_without_depth_there_is_no_thread() -> None:
    source = Source(3)
    with Ahead(iter(source), 0) as items:
        assert list(items) == [0, 1, 2]
    assert source.threads == {threading.current_thread().name.split("_")[0]}


def test_an_attempt_tells_as_often_as_it_is_asked() -> None:
    calls = []
    works = attempt(lambda value: calls.append(value) or value, 5)
    assert (works(), works(), calls) == (5, 5, [5])
    fails = attempt(int, "no number")
    for _ in range(2):
        with pytest.raises(ValueError, match="no number"):
            fails()
