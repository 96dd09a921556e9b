"""The bootstrap: against loops that read like the textbook, exact enumeration, and what the intervals promise."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefusion.evaluation.statistics import Bootstrap


@st.composite
def answers(draw):
    """Videos with several questions each, in any order, and two methods that answer them."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=2, max_size=8))
    videos = [f"v{i}" for i, size in enumerate(sizes) for _ in range(size)]
    videos = draw(st.permutations(videos))
    share = st.sampled_from([0.0, 1 / 3, 2 / 3, 1.0])
    both = [draw(st.lists(share, min_size=len(videos), max_size=len(videos))) for _ in range(2)]
    return videos, *map(np.array, both)


def textbook(videos, weights, statistic, level=0.95):
    """Put the questions of the drawn videos side by side, compute, repeat, and read off the percentiles."""
    order = list(dict.fromkeys(videos))
    drawn = []
    for counts in weights:
        questions = []
        for video, count in zip(order, counts, strict=True):
            questions += [i for i, v in enumerate(videos) if v == video] * int(count)
        value = statistic(questions)
        if value is not None:
            drawn.append(value)
    return np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])


@given(answers())
def test_intervals_are_those_of_the_textbook(given_answers):
    videos, mine, theirs = given_answers
    bootstrap = Bootstrap(videos, resamples=50, seed=3)
    assert (bootstrap.weights.sum(1) == len(set(videos))).all()

    def mean(values):
        return lambda questions: float(np.mean([values[i] for i in questions]))

    def ratio(questions):
        below = sum(theirs[i] for i in questions)
        return sum(mine[i] for i in questions) / below if below > 0 else None

    found = {
        bootstrap.accuracy(mine): mean(mine),
        bootstrap.difference(mine, theirs): mean(mine - theirs),
    }
    if theirs.sum() and len({v for v, right in zip(videos, theirs, strict=True) if right}) > 1:
        found[bootstrap.ratio(mine, theirs)] = ratio
    for estimate, statistic in found.items():
        assert estimate.value == pytest.approx(statistic(range(len(videos))))
        expected = textbook(videos, bootstrap.weights, statistic)
        assert (estimate.low, estimate.high) == pytest.approx(tuple(expected), abs=1e-12)


@given(answers())
def test_a_split_is_the_whole_of_its_questions(given_answers):
    videos, mine, theirs = given_answers
    where = np.arange(len(videos)) % 2 == 0
    whole, part = Bootstrap(videos), [v for v, w in zip(videos, where, strict=True) if w]
    assert whole.accuracy(mine, where).value == pytest.approx(mine[where].mean())
    assert whole.difference(mine, theirs, where).value == pytest.approx((mine - theirs)[where].mean())
    if len(set(part)) == len(set(videos)):
        again = Bootstrap(videos).accuracy(np.where(where, mine, 99), where)
        assert again == whole.accuracy(mine, where)


def test_the_draw_is_that_of_all_resamples():
    """Three videos have 27 resamples; their exact distribution is known."""
    videos, right = ["a", "a", "b", "c", "c", "c"], np.array([1, 0, 1, 0, 0, 1.0])
    order = list(dict.fromkeys(videos))
    means = [
        np.mean([right[i] for video in drawn for i, v in enumerate(videos) if v == video])
        for drawn in itertools.product(order, repeat=3)
    ]
    bootstrap = Bootstrap(videos, resamples=200_000)
    below = np.array([sum(v == video for v in videos) for video in order])
    above = np.array([sum(r for v, r in zip(videos, right, strict=True) if v == video) for video in order])
    drawn = bootstrap.weights @ above / (bootstrap.weights @ below)
    for value in sorted(set(np.round(means, 9))):
        assert np.mean(np.round(drawn, 9) == value) == pytest.approx(np.mean(np.round(means, 9) == value), abs=0.005)


def test_intervals_cover_what_they_promise():
    """Videos with an effect of their own: intervals over videos hold, over questions they would be far too narrow."""
    rng = np.random.default_rng(0)
    covered, naive = 0, 0
    for trial in range(200):
        ease = rng.beta(1, 1, size=40)
        videos = np.repeat(np.arange(40), 10)
        right = (rng.random(400) < ease[videos]).astype(float)
        estimate = Bootstrap(videos.tolist(), resamples=400, seed=trial).accuracy(right)
        covered += estimate.low <= 0.5 <= estimate.high
        alone = Bootstrap(list(range(400)), resamples=400, seed=trial).accuracy(right)
        naive += alone.low <= 0.5 <= alone.high
    assert 0.89 <= covered / 200 <= 0.99
    assert naive / 200 < 0.85


def test_pairing_takes_out_what_the_videos_share():
    rng = np.random.default_rng(1)
    theirs = (rng.random(300) < 0.5).astype(float)
    mine = theirs.copy()
    mine[:9] = 1 - mine[:9]
    bootstrap = Bootstrap(list(range(300)))
    paired = bootstrap.difference(mine, theirs)
    alone = bootstrap.accuracy(mine)
    assert paired.high - paired.low < (alone.high - alone.low) / 2
    assert bootstrap.difference(mine, mine) == bootstrap.difference(theirs, theirs)
    assert (bootstrap.difference(mine, mine).low, bootstrap.difference(mine, mine).high) == (0, 0)


def test_the_same_seed_draws_the_same():
    videos, right = list("aabbccdd"), np.array([1, 0, 1, 1, 0, 0, 1, 0.0])
    assert Bootstrap(videos, seed=5).accuracy(right) == Bootstrap(videos, seed=5).accuracy(right)
    assert (Bootstrap(videos, seed=5).weights != Bootstrap(videos, seed=6).weights).any()
    wide, narrow = (Bootstrap(videos, level=level).accuracy(right) for level in (0.95, 0.5))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_one_video_tells_nothing_about_others():
    estimate = Bootstrap(["a", "a"]).accuracy(np.array([1.0, 0.0]))
    assert (estimate.value, estimate.low, estimate.high) == (0.5, None, None)
    split = Bootstrap(["a", "b"]).accuracy(np.array([1.0, 0.0]), np.array([True, False]))
    assert (split.value, split.low) == (1.0, None)


def test_a_reference_that_is_never_right_has_no_ratio():
    assert Bootstrap(["a", "b"]).ratio(np.ones(2), np.zeros(2)) is None


def test_errors():
    with pytest.raises(ValueError, match="videos is empty"):
        Bootstrap([])
    with pytest.raises(ValueError, match="resamples must be at least 1"):
        Bootstrap(["a"], resamples=0)
    with pytest.raises(ValueError, match="one for each question"):
        Bootstrap(["a", "b"]).accuracy(np.ones(3))
    with pytest.raises(ValueError, match="selects no question"):
        Bootstrap(["a", "b"]).accuracy(np.ones(2), np.zeros(2, bool))
