"""The schedule, against a crew that is only a list of what happened, and whose answers come in any order."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefusion.batch.crew import AHEAD, DEATHS, Answered, Died, News, Ready, Refused, answers
from framefusion.batch.rows import BatchError, Row


def rows(count: int) -> list[Row]:
    return [Row(line, f"{line:012x}") for line in range(1, count + 1)]


class Scripted:
    """Workers that answer in a random order.

    Args:
        seed: of the order.
        deadly: how many workers die over a line.
        starts: what becomes of the first workers while they load; the others are ready.
    """

    def __init__(self, seed: int = 0, deadly: dict[int, int] | None = None, starts: list[News] | None = None) -> None:
        self.random = random.Random(seed)
        self.deadly = Counter(deadly or {})
        self.starts = list(starts or [])
        self.news: dict[int, News] = {}
        self.alive: set[int] = set()
        self.hired = 0
        self.asked: Counter[int] = Counter()
        self.working = self.most_working = 0

    def hire(self) -> int:
        self.hired += 1
        self.alive.add(self.hired)
        self.news[self.hired] = self.starts.pop(0) if self.starts else Ready("model")
        return self.hired

    def ask(self, worker: int, row: Row) -> None:
        assert worker in self.alive
        assert worker not in self.news, "one row at a time"
        self.asked[row.line] += 1
        if self.deadly[row.line]:
            self.deadly[row.line] -= 1
            self.news[worker] = Died("killed")
        else:
            self.news[worker] = Answered({"answer": row.line})
        self.most_working = max(self.most_working, len(self.news))

    def wait(self) -> tuple[int, News]:
        assert self.news, "nobody would ever come back"
        worker = self.random.choice(list(self.news))
        return worker, self.news.pop(worker)

    def dismiss(self, worker: int) -> None:
        self.alive.remove(worker)


def collect(crew: Scripted, size: int, given_rows: Any, **options: Any) -> list[tuple[int, Any]]:
    told: list[str] = []
    found = [(row.line, result) for row, result in answers(crew, size, given_rows, told.append, **options)]
    assert set(told) <= {"model"}
    return found


@given(
    count=st.integers(0, 60),
    size=st.integers(1, 5),
    seed=st.integers(0, 999),
    ordered=st.booleans(),
    deadly=st.dictionaries(st.integers(1, 60), st.integers(1, DEATHS + 1), max_size=6),
)
def test_every_row_has_one_result_whoever_dies(count, size, seed, ordered, deadly):
    crew = Scripted(seed, deadly)
    found = collect(crew, size, rows(count), ordered=ordered)
    died = f"{DEATHS} processes died over it: killed"
    expected = [
        (line, {"error": died} if deadly.get(line, 0) >= DEATHS else {"answer": line}) for line in range(1, count + 1)
    ]
    assert (found if ordered else sorted(found, key=lambda pair: pair[0])) == expected
    assert crew.asked == {line: 1 + min(deadly.get(line, 0), DEATHS - 1) for line in range(1, count + 1)}
    assert len(crew.alive) == size


def test_unordered_results_come_as_they_are():
    found = [line for line, _ in collect(Scripted(), 4, rows(50), ordered=False)]
    assert found != sorted(found) == list(range(1, 51))


@pytest.mark.parametrize(("ordered", "most"), [(True, AHEAD * 3), (False, 3)])
def test_rows_are_taken_when_somebody_can_work_on_them(ordered, most):
    """100,000 rows. The first takes for ever, so that an eager reader would take them all."""
    taken, handed, widest = 0, 0, 0

    def source():
        nonlocal taken
        for row in rows(100_000):
            taken += 1
            yield row

    class SlowFirst(Scripted):
        def wait(self) -> tuple[int, News]:
            slow = [worker for worker, news in self.news.items() if news == Answered({"answer": 1})]
            others = [worker for worker in self.news if worker not in slow]
            worker = (others or slow)[0]
            return worker, self.news.pop(worker)

    for _ in answers(SlowFirst(), 3, source(), lambda model: None, ordered=ordered):
        widest = max(widest, taken - handed)
        handed += 1
    assert handed == 100_000
    assert widest <= most + 1


def test_workers_are_busy_while_results_are_written():
    crew = Scripted()
    shift = answers(crew, 3, rows(10), lambda model: None, ordered=False)
    next(shift)
    while len(crew.alive) < 3 or not crew.asked:
        next(shift)
    assert crew.most_working == 3
    assert len(crew.news) == 3, "nobody waits for whoever takes the results"


def test_a_model_that_cannot_be_loaded():
    with pytest.raises(BatchError, match=r"^no such model$"):
        collect(Scripted(starts=[Refused("no such model")]), 2, rows(5))


def test_processes_that_die_while_they_load():
    with pytest.raises(BatchError, match="3 processes in a row died while they loaded the model: too large"):
        collect(Scripted(starts=[Died("too large")] * 99), 2, rows(5))
    # Two that die are replaced.
    assert len(collect(Scripted(starts=[Died("too large")] * 2), 2, rows(5))) == 5


def test_a_worker_with_a_broken_device_is_replaced():
    class Broken(Scripted):
        def ask(self, worker: int, row: Row) -> None:
            super().ask(worker, row)
            if row.line == 2 and self.asked[2] == 1:
                self.news[worker] = Refused("the device failed")

    crew = Broken()
    assert [line for line, _ in collect(crew, 2, rows(6))] == list(range(1, 7))
    assert crew.hired == 3


def test_another_model_ends_the_batch():
    def confirm(model: str) -> None:
        raise BatchError("another model")

    with pytest.raises(BatchError, match="another model"):
        list(answers(Scripted(), 2, rows(5), confirm))
