"""The pieces of a timeline, beside what the textbook says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefusion.asking.decoding import timeline
from framefusion.asking.decoding.timeline import Timeline

STAMPS = st.lists(st.none() | st.integers(0, 12), min_size=1, max_size=9).filter(
    lambda stamps: any(stamp is not None for stamp in stamps)
)


def ascents(stamps: list[int | None]) -> list[tuple[int, ...]]:
    """Every strictly ascending choice of positions."""
    known = [position for position, stamp in enumerate(stamps) if stamp is not None]
    return [
        chosen
        for size in range(1, len(known) + 1)
        for chosen in itertools.combinations(known, size)
        if all(stamps[one] < stamps[other] for one, other in itertools.pairwise(chosen))  # type: ignore[operator]
    ]


@given(STAMPS)
def test_the_longest_ascent_is_one_of_the_longest(stamps: list[int | None]) -> None:
    found = tuple(timeline._longest_ascent(stamps))
    assert found in ascents(stamps)
    assert len(found) == max(map(len, ascents(stamps)))


@given(STAMPS, st.booleans())
def test_times_ascend_whatever_the_stamps(stamps: list[int | None], counted: bool) -> None:
    times = timeline._times(stamps, 0.1, 10.0, counted)
    assert len(times) == len(stamps)
    assert (np.diff(times) > 0).all()


def test_stamps_that_ascend_are_believed_and_others_filled_in() -> None:
    assert timeline._times([3, 5, 9], 0.5, 10.0, False).tolist() == [1.5, 2.5, 4.5]
    assert timeline._times([0, 90, 2, None, 4], 1.0, 1.0, False).tolist() == [0, 1, 2, 3, 4]
    assert timeline._times([None, 4, None], 1.0, 2.0, False).tolist() == [3.5, 4.0, 4.5]


def test_avi_counts_frames_and_shows_one_for_longer_where_a_number_is_missing() -> None:
    assert timeline._times([2, 5, 3, 6], 0.1, 10.0, True).tolist() == pytest.approx([0, 0.1, 0.3, 0.4])
    assert timeline._times([None, None, None], 0.1, 10.0, True).tolist() == pytest.approx([0, 0.1, 0.2])
    assert timeline._times([60, 180, 120, 121], 1 / 600, 10.0, True).tolist() == pytest.approx([0, 0.1, 0.2, 0.3])


def test_damage_reaches_to_the_next_intact_key_frame() -> None:
    keys = [True, False, False, True, False, True, False]
    clean = [False] * 7
    assert timeline._intact(keys, clean, []).tolist() == [True] * 7
    assert timeline._intact(keys, clean, [1]).tolist() == [True, False, False, True, True, True, True]
    assert timeline._intact(keys, clean, [3]).tolist() == [True] * 7
    corrupt = [False, False, True, True, False, False, False]
    assert timeline._intact(keys, corrupt, []).tolist() == [True, True, False, False, False, True, True]


@given(
    st.lists(st.floats(0.01, 3), min_size=1, max_size=20),
    st.integers(1, 25),
)
def test_chosen_frames_are_on_display_at_the_middle_of_equal_intervals(lengths: list[float], count: int) -> None:
    starts = np.concatenate([[0.0], np.cumsum(lengths)])
    shown = Timeline(starts[:-1] + 5, float(starts[-1]), 0.0, np.ones(len(lengths), bool))
    chosen = shown.choose(count)
    if count >= len(lengths):
        assert chosen == list(range(len(lengths)))
        return
    for number, position in enumerate(chosen):
        middle = (number + 0.5) * starts[-1] / count
        assert starts[position] - 1e-5 <= middle <= starts[position + 1] + 1e-5
