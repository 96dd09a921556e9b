"""When frames are shown, and which are given."""

from __future__ import annotations

import numpy as np
import pytest

from framefusion.asking.streams.sampling import Clock, Ticks


def times(stamps: list[float | None], step: float = 0.1) -> list[float]:
    clock = Clock(step)
    return [clock.time(stamp) for stamp in stamps]


def given(shown: list[float], fps: float) -> list[float]:
    ticks = Ticks(fps)
    return [time for time in shown if ticks.due(time)]


def test_times_count_from_the_first_frame() -> None:
    assert times([5.0, 5.1, 7.0]) == pytest.approx([0, 0.1, 2.0])


def test_a_missing_stamp_is_one_frame_later() -> None:
    assert times([None, None, 3.0, 3.1, None, 3.3]) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_a_disorder_moves_one_frame_alone() -> None:
    found = times([0.0, 0.1, 0.4, 0.2, 0.3, 0.5, 0.6])
    assert (np.diff(found) > 0).all()
    assert found[:3] == pytest.approx([0, 0.1, 0.4])
    assert found[5:] == pytest.approx([0.5, 0.6])


@pytest.mark.parametrize("again", [1000.0, 0.0])
def test_another_clock_goes_on_where_the_last_one_was(again: float) -> None:
    """Far back at once; a little back, when it stays so."""
    first = [again + 0.1 * n for n in range(101 if again else 60)]
    found = times([*first, *(n * 0.1 for n in range(100))])
    assert (np.diff(found) > 0).all()
    told = len(first) + 17
    assert np.diff(found[told:]) == pytest.approx([0.1] * (len(found) - told - 1))


def test_a_clock_restarts_where_it_is_told_but_never_before_its_last_frame() -> None:
    clock = Clock(0.1)
    assert [clock.time(stamp) for stamp in (7.0, 7.1)] == pytest.approx([0, 0.1])
    clock.restart(5.0, 0.2)
    assert [clock.time(stamp) for stamp in (0.0, 0.2, None)] == pytest.approx([5, 5.2, 5.4])
    clock.restart(1.0, 0.2)
    assert clock.time(99.0) == pytest.approx(5.6)


@pytest.mark.parametrize(("rate", "fps"), [(30, 1), (25, 2), (10, 3), (24, 7), (30, 15), (29.97, 1)])
def test_the_frame_nearest_to_each_tick_is_given(rate: float, fps: float) -> None:
    shown = [position / rate for position in range(300)]
    found = given(shown, fps)
    ticks = np.arange(len(found)) / fps
    nearest = [min(abs(time - tick) for time in shown) for tick in ticks]
    assert np.abs(np.array(found) - ticks) == pytest.approx(nearest, abs=1e-6)


@pytest.mark.parametrize("fps", [1, 2, 30])
def test_jitter_at_the_rate_that_is_asked_for_loses_no_frame(fps: float) -> None:
    jitter = np.random.default_rng(0).uniform(-0.2, 0.2, 200)
    shown = ((np.arange(200) + 0.5 + jitter) / fps).tolist()
    assert given(shown, fps) == shown


def test_frames_rarer_than_ticks_are_all_given_and_once() -> None:
    shown = [0.0, 3.3, 4.0, 60.0, 61.0, 61.5]
    assert given(shown, 1) == [0.0, 3.3, 4.0, 60.0, 61.0]
    assert given(shown, 100) == shown


def test_a_burst_after_a_pause_gives_no_more_than_its_share() -> None:
    shown = [0.0, *(10 + position / 25 for position in range(100))]
    assert len(given(shown, 2)) == 1 + 8
