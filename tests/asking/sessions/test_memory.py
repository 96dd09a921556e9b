"""What a session forgets to stay within a limit."""

from __future__ import annotations

import numpy as np
import pytest

from framefusion import FrameFusion, restore_session, session
from framefusion.asking.prompts import AskError
from framefusion.asking.sessions.memory import limit_of

SIZE = (32, 48)


def moving(first: int, count: int) -> np.ndarray:
    """Frames of a bright bar that moves on, over noise that stays."""
    noise = np.random.default_rng(3).integers(0, 90, (*SIZE, 3), dtype=np.uint8)
    frames = np.repeat(noise[None], count, axis=0)
    for index in range(count):
        place = 3 * (first + index) % SIZE[1]
        frames[index, :, place : place + 6] = 250
    return frames


def talk(loaded, memory, settings=None, chunk=4):
    return session(loaded.model, loaded.processor, settings, memory=memory, chunk=chunk, max_new_tokens=3)


@pytest.mark.parametrize(
    ("given", "limit"),
    [(5, (5, False)), ("2GiB", (2**31, True)), ("1.5 kB", (1500, True)), (" 7 mib ", (7 * 2**20, True))],
)
def test_limits(given, limit):
    assert limit_of(given) == limit


@pytest.mark.parametrize("given", [0, -1, 1.5, True, "GiB", "0GiB", "2 parsecs", None])
def test_limits_that_are_none(given):
    with pytest.raises(AskError, match="memory must be a number of visual tokens, or bytes such as '2GiB'"):
        limit_of(given)


@pytest.mark.covering(1)
@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_vl", "qwen3_vl", "gemma3", "qwen3_5"])
@pytest.mark.parametrize("settings", [FrameFusion(), FrameFusion(cost=0.3, relevance="none")])
def test_a_stream_stays_within_its_limit_and_flat(family, name, settings, pytestconfig):
    """Neither what is held nor what is counted grows, once the limit is reached."""
    loaded, sizes, lengths = family(name), [], []
    frames = 96 if pytestconfig.getoption("--matrix") is None else 160
    quarter, half = frames // 16, frames // 8
    with talk(loaded, 40, settings) as s:
        for first in range(0, frames, 4):
            s.add(moving(first, 4), timestamps=np.arange(first, first + 4))
            held = s._held.prefix
            anywhere = s.summary().held
            assert anywhere <= 40
            sizes.append(held.nbytes)
            lengths.append(held.length)
        s.ask("where is the bar?")
        summary = s.summary()
    assert summary.forgotten > 0
    assert summary.frames == frames
    # The words between frames come and go with them.
    assert max(sizes[half:]) <= 1.3 * max(sizes[quarter:half])
    if name != "gemma3":
        # Windows are counted in columns, so those stay counted.
        assert max(lengths[half:]) <= 1.3 * max(lengths[quarter:half])


@pytest.mark.parametrize("name", ["gemma3", "qwen3_vl"])
def test_words_between_frames_go_with_them_where_nothing_older_is_left(family, name):
    """Those before the first frame that is left are not taken for what is ahead of the video."""
    loaded, words = family(name), []
    alone = talk(loaded, None)
    alone.add(moving(0, 4))
    with talk(loaded, alone.summary().held) as s:
        for first in range(0, 40, 4):
            s.add(moving(first, 4), timestamps=np.arange(first, first + 4))
            words.append(int((~s._held.prefix.held.visual).sum()))
    assert max(words) <= 1.5 * words[0]


def test_the_latest_part_stays_whole(bundled):
    with talk(bundled, 200) as s:
        s.add(moving(0, 16))
        held = s._held.prefix.held
        frames = held.layout.frame[np.searchsorted(held.layout.columns, held.columns[held.visual])]
        latest = int((frames >= 12).sum())
        alone = talk(bundled, None)
        alone.add(moving(12, 4))
        assert latest == alone.summary().held


@pytest.mark.covering(1)
@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_vl", "gemma3", "qwen3_5"])
@pytest.mark.parametrize("settings", [FrameFusion(), FrameFusion(keep={2: 0.2}, relevance="none")])
@pytest.mark.parametrize("parts", [2.5, 5])
def test_a_limit_in_bytes_holds(family, name, settings, parts):
    """Tokens that a stage has dropped take less than others, and recurrent states are of no token."""
    loaded = family(name)
    alone = talk(loaded, None, settings)
    alone.add(moving(0, 4))
    limit = int(parts * alone.summary().nbytes) // 1024
    with talk(loaded, f"{limit}KiB", settings) as s:
        for first in range(0, 32, 4):
            s.add(moving(first, 4), timestamps=np.arange(first, first + 4))
            assert s.summary().nbytes <= limit * 1024
        s.ask("where is the bar?")
        assert s.summary().frames == 32


def test_what_is_new_and_takes_more_bytes_than_may_be_held_is_refused(bundled):
    with talk(bundled, "100KiB") as s:
        with pytest.raises(AskError, match=r"memory=0.1 MiB is less than .* takes \(\d+ visual tokens"):
            s.add(moving(0, 4))
        assert s.summary().frames == 0


@pytest.mark.parametrize("name", ["llava_onevision", "gemma3"])
def test_shares_are_of_all_that_was_shown(family, name, tmp_path):
    """What was forgotten has been in the layers, too."""
    loaded = family(name)
    with talk(loaded, 40, FrameFusion(cost=0.5)) as s:
        for first in range(0, 48, 4):
            s.add(moving(first, 4), timestamps=np.arange(first, first + 4))
        s.save(tmp_path)
        restored = restore_session(tmp_path, loaded.model, loaded.processor)
        for summary in (s.ask("where?").summary, s.ask_all(["where?"])[0].summary, restored.ask("where?").summary):
            assert s.summary().forgotten > 0
            assert summary.visual_tokens_before == s.summary().visual_tokens
            assert summary.visual_tokens_after < max(summary.tokens_per_layer) <= summary.visual_tokens_before
            assert 0.1 < summary.mean_share < 0.6
            assert 0 < summary.flops_saved_share < 1


def test_what_is_new_and_does_not_fit_is_refused(bundled):
    with talk(bundled, 20) as s:
        with pytest.raises(AskError, match=r"memory=20 visual tokens is less than what was just added takes \(\d+"):
            s.add(moving(0, 4))
        assert s.summary().frames == 0


def test_copies_go_first(bundled):
    """Of a video that stands still and then moves, what stands still loses more."""
    still = np.repeat(moving(0, 1), 8, axis=0)
    with talk(bundled, 300, FrameFusion(keep={0: 0.5}, relevance="none")) as s:
        s.add(still)
        s.add(moving(8, 8))
        s.add(moving(16, 4))
        held = s._held.prefix.held
        frames = held.layout.frame[np.searchsorted(held.layout.columns, held.columns[held.visual])].numpy()
    assert (frames < 8).sum() < ((frames >= 8) & (frames < 16)).sum()
