"""The schedule, against a pool that is only a list of what happened, and whose answers come in any order."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefusion.supervision import (
    AHEAD,
    DEATHS,
    Answered,
    Died,
    News,
    Progressed,
    Ready,
    Refused,
    WorkerError,
    results,
)


def jobs(count: int) -> list[int]:
    return list(range(1, count + 1))


def lost(reason: str) -> str:
    return f"lost: {reason}"


class Scripted:
    """Workers that answer in a random order.

    Args:
        seed: of the order.
        deadly: how many workers die over a job.
        starts: what becomes of the first workers while they load; the others are ready.
    """

    def __init__(self, seed: int = 0, deadly: dict[int, int] | None = None, starts: list[News] | None = None) -> None:
        self.random = random.Random(seed)
        self.deadly = Counter(deadly or {})
        self.starts = list(starts or [])
        self.news: dict[int, News] = {}
        self.alive: set[int] = set()
        self.started = 0
        self.asked: Counter[int] = Counter()
        self.working = self.most_working = 0

    def start(self) -> int:
        self.started += 1
        self.alive.add(self.started)
        self.news[self.started] = self.starts.pop(0) if self.starts else Ready("model")
        return self.started

    def submit(self, worker: int, job: int) -> None:
        assert worker in self.alive
        assert worker not in self.news, "one job at a time"
        self.asked[job] += 1
        if self.deadly[job]:
            self.deadly[job] -= 1
            self.news[worker] = Died("killed")
        else:
            self.news[worker] = Answered(-job)
        self.most_working = max(self.most_working, len(self.news))

    def wait(self) -> tuple[int, News]:
        assert self.news, "nobody would ever come back"
        worker = self.random.choice(list(self.news))
        return worker, self.news.pop(worker)

    def stop(self, worker: int) -> None:
        self.alive.remove(worker)


def collect(pool: Scripted, size: int, given: Any, **options: Any) -> list[tuple[int, Any]]:
    told: list[str] = []
    found = list(results(pool, size, given, lost, confirm=told.append, **options))
    assert set(told) <= {"model"}
    return found


@given(
    count=st.integers(0, 60),
    size=st.integers(1, 5),
    seed=st.integers(0, 999),
    ordered=st.booleans(),
    deadly=st.dictionaries(st.integers(1, 60), st.integers(1, DEATHS + 1), max_size=6),
)
def test_every_job_has_one_result_whoever_dies(count, size, seed, ordered, deadly):
    pool = Scripted(seed, deadly)
    found = collect(pool, size, jobs(count), ordered=ordered)
    died = f"lost: {DEATHS} processes died over it: killed"
    expected = [(job, died if deadly.get(job, 0) >= DEATHS else -job) for job in jobs(count)]
    assert (found if ordered else sorted(found, key=lambda pair: pair[0])) == expected
    assert pool.asked == {job: 1 + min(deadly.get(job, 0), DEATHS - 1) for job in jobs(count)}
    assert len(pool.alive) == size


def test_unordered_results_come_as_they_are():
    found = [job for job, _ in collect(Scripted(), 4, jobs(50), ordered=False)]
    assert found != sorted(found) == list(range(1, 51))


@pytest.mark.parametrize(("ordered", "most"), [(True, AHEAD * 3), (False, 3)])
def test_jobs_are_taken_when_somebody_can_work_on_them(ordered, most):
    """100,000 jobs. The first takes for ever, so that an eager reader would take them all."""
    taken, handed, widest = 0, 0, 0

    def source():
        nonlocal taken
        for job in jobs(100_000):
            taken += 1
            yield job

    class SlowFirst(Scripted):
        def wait(self) -> tuple[int, News]:
            slow = [worker for worker, news in self.news.items() if news == Answered(-1)]
            others = [worker for worker in self.news if worker not in slow]
            worker = (others or slow)[0]
            return worker, self.news.pop(worker)

    for _ in results(SlowFirst(), 3, source(), lost, ordered=ordered):
        widest = max(widest, taken - handed)
        handed += 1
    assert handed == 100_000
    assert widest <= most + 1


def test_workers_are_busy_while_results_are_written():
    pool = Scripted()
    shift = results(pool, 3, jobs(10), lost, ordered=False)
    next(shift)
    while len(pool.alive) < 3 or not pool.asked:
        next(shift)
    assert pool.most_working == 3
    assert len(pool.news) == 3, "nobody waits for whoever takes the results"


def test_a_model_that_cannot_be_loaded():
    with pytest.raises(WorkerError, match=r"^no such model$") as caught:
        collect(Scripted(starts=[Refused("no such model", "in load")]), 2, jobs(5))
    assert str(caught.value.__cause__) == "in load"


def test_processes_that_die_while_they_load():
    with pytest.raises(WorkerError, match="3 processes in a row died while they loaded the model: too large"):
        collect(Scripted(starts=[Died("too large")] * 99), 2, jobs(5))
    # Two that die are replaced.
    assert len(collect(Scripted(starts=[Died("too large")] * 2), 2, jobs(5))) == 5


def test_a_worker_with_a_broken_device_is_replaced():
    class Broken(Scripted):
        def submit(self, worker: int, job: int) -> None:
            super().submit(worker, job)
            if job == 2 and self.asked[2] == 1:
                self.news[worker] = Refused("the device failed")

    pool = Broken()
    assert [job for job, _ in collect(pool, 2, jobs(6))] == list(range(1, 7))
    assert pool.started == 3


def test_another_model_ends_it():
    def confirm(model: str) -> None:
        raise WorkerError("another model")

    with pytest.raises(WorkerError, match="another model"):
        list(results(Scripted(), 2, jobs(5), lost, confirm=confirm))


def test_progress_of_a_process_that_dies_is_taken_back():
    class InParts(Scripted):
        """Each job has two parts; who dies over one does so behind the first."""

        left: dict[int, list[News]]

        def submit(self, worker: int, job: int) -> None:
            super().submit(worker, job)
            last = self.news[worker]
            self.left[worker] = [last] if isinstance(last, Died) else [Progressed(1), last]
            self.news[worker] = Progressed(1)

        def wait(self) -> tuple[int, News]:
            worker, news = super().wait()
            if isinstance(news, Progressed):
                self.news[worker] = self.left[worker].pop(0)
            return worker, news

    told: list[int] = []
    pool = InParts(deadly={3: 1})
    pool.left = {}
    assert len(list(results(pool, 2, jobs(6), lost, told=told.append))) == 6
    assert sum(told) == 12
    assert told.count(-1) == 1
