"""Visits: a folder each, as long as the page is open and used."""

from __future__ import annotations

import threading

import pytest

from framefusion.app.limits import Limits, VisitError
from framefusion.app.visits import Visits

LIMITS = Limits(visits=2, idle=60)


@pytest.fixture
def visits(clock):
    made = Visits(LIMITS, clock)
    yield made
    made.close()


def test_each_name_has_a_folder_that_goes_with_it(visits):
    with visits.at("a") as a, visits.at("b") as b:
        assert a.folder != b.folder
        (a.folder / "file").write_text("a's own")
    with visits.at("a") as again:
        assert again is a
    visits.leave("a")
    assert not a.folder.exists()
    assert b.folder.exists()
    assert a.ended
    visits.leave("nobody")
    with visits.at("a") as new:
        assert new is not a


def test_no_more_than_the_limit_at_a_time(visits):
    for name in "ab":
        with visits.at(name):
            pass
    with pytest.raises(VisitError, match="2 others use this page"), visits.at("c"):
        pass
    visits.leave("b")
    with visits.at("c"):
        assert len(visits) == 2


def test_who_is_idle_ends_and_who_is_busy_does_not(visits, clock):
    with visits.at("idle") as idle:
        pass
    with visits.at("busy") as busy:
        clock.now = 61
        visits.sweep()
        assert idle.ended
        assert not idle.folder.exists()
        assert not busy.ended
    clock.now = 100  # the time counts from the end of a call
    visits.sweep()
    assert not busy.ended


def test_a_call_that_fails_is_over(visits, clock):
    with pytest.raises(RuntimeError), visits.at("a") as visit:
        raise RuntimeError
    clock.now = 61
    visits.sweep()
    assert visit.ended


def test_the_end_leaves_nothing(clock):
    visits = Visits(LIMITS, clock)
    with visits.at("a") as visit:
        (visit.folder / "file").write_text("something")
    root = visit.folder.parent
    visits.close()
    assert not root.exists()


def test_many_threads_agree(visits):
    seen = []

    def enter():
        for _ in range(50):
            with visits.at("a") as visit:
                seen.append(visit)

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, seen))) == 1
    assert seen[0].busy == 0
