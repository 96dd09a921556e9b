"""What a session takes, part by part: what is free always, what is inside the model where a clock runs with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from framefusion import FrameFusion, assets, session
from framefusion.hf import timing
from framefusion.hf.timing import Clock, Times
from tests.hf.case import Case
from tests.hf.test_timing import LAYER, PROJECTOR, TOWER, World, moving

SETTINGS = {
    "the question counts in layer 1": (FrameFusion(keep={1: 0.5}, relevance="last"), 2),
    "nothing goes by the question": (FrameFusion(cost=0.5, relevance="none"), 4),
}
"""And the layers that begin over what is shown for good; the last is that before which the prefix ends."""


@pytest.fixture
def world(family, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Time in the model goes by only when its modules run."""
    now, model = World(), family("qwen2_vl").model
    monkeypatch.setattr(timing, "clock_of", lambda model: Clock([torch.device("cpu")], now))
    with moving(Case("qwen2_vl", model, None, None), now):
        yield now


@pytest.mark.parametrize("case", list(SETTINGS))
def test_the_parts_of_showing_and_of_the_last_question(family, video, world, case):
    loaded, (settings, begun) = family("qwen2_vl"), SETTINGS[case]
    with session(loaded.model, loaded.processor, settings, chunk=4, timed=True, max_new_tokens=3) as s:
        s.add(video)
        shown = s.summary().times_adding
        assert s.summary().times_asking is None
        # Two parts of four frames.
        assert shown.tower + shown.projector == 2 * (TOWER + PROJECTOR)
        assert shown.prefill == 2 * begun * LAYER
        for question in ("what?", "and then?"):
            reply = s.ask(question)
            # The text alone in the layers before the fork, and all that is held behind it.
            assert (reply.times.tower, reply.times.projector) == (None, None)
            assert reply.times.prefill == 4 * LAYER
            assert s.summary().times_asking == reply.times
        s.add(video.frames, timestamps=video.timestamps + 8)
        assert s.summary().times_adding.prefill == 4 * begun * LAYER


def test_the_parts_add_up(family, video):
    loaded = family("qwen2_vl")
    with session(loaded.model, loaded.processor, timed=True, max_new_tokens=3) as s:
        s.add(video)
        reply, held = s.ask("what?"), s.summary()
    assert held.times_adding.decode is None
    assert min(held.times_adding.parts.values()) > 0
    assert set(held.times_adding.parts) == {"processor", "tower", "projector", "prefill", "other"}
    # What lies between the parts belongs to none, however long the machine takes for it.
    assert sum(held.times_adding.parts.values()) <= held.seconds_adding
    assert set(reply.times.parts) == {"processor", "prefill", "other"}
    assert sum(reply.times.parts.values()) == pytest.approx(reply.times.first_token)
    assert reply.times.first_token == reply.seconds_to_first_token
    assert reply.times.per_token > 0


def test_what_is_free_is_told_without_a_clock(family, monkeypatch):
    loaded = family("qwen2_vl")
    before = sum(len(module._forward_pre_hooks) for module in loaded.model.modules())
    with session(loaded.model, loaded.processor, max_new_tokens=2) as s:
        monkeypatch.setattr(timing, "clock_of", lambda model: pytest.fail("nobody asked"))
        s.add(assets.DEMO_VIDEO, frames=4)
        reply, held = s.ask("what?"), s.summary()
        assert set(held.times_adding.parts) == {"decode", "processor"}
        assert held.times_adding.decode > 0
        assert set(reply.times.parts) == {"processor"}
        assert reply.times.first_token == reply.seconds_to_first_token
        assert s.ask_all(["what?", "where?"])[0].times.processor > 0
    assert sum(len(module._forward_pre_hooks) for module in loaded.model.modules()) == before


def test_a_clock_may_come_later_and_goes_with_a_fork(family, video):
    loaded = family("qwen2_vl")
    with session(loaded.model, loaded.processor, max_new_tokens=2) as s:
        s.add(video)
        assert s.summary().times_adding.prefill is None
        s.timed = True
        assert s.fork().timed
        assert s.ask("what?").times.prefill > 0
        assert s.ask_all(["what?", "where?"])[1].times.prefill > 0
        s.timed = False
        assert s.ask("what?").times.prefill is None


def test_frames_that_wait_are_encoded_for_a_question(family, video, world):
    loaded = family("qwen2_vl")
    with session(loaded.model, loaded.processor, FrameFusion(keep=1.0), timed=True, max_new_tokens=2) as s:
        s.add(video.frames[:4])
        s.add(video.frames[4:5])
        shown, asked = s.summary().times_adding, s.ask("what?").times
        assert shown.tower + shown.projector == asked.tower + asked.projector == TOWER + PROJECTOR


def test_what_fails_leaves_the_times_as_they_were(family, video, monkeypatch):
    loaded = family("qwen2_vl")
    with session(loaded.model, loaded.processor, timed=True) as s:
        s.add(video)
        before = s.summary()

        def broken(*args, **more):
            raise ValueError("too hot")

        monkeypatch.setattr("framefusion.asking.sessions.prompting.turn_inputs", broken)
        with pytest.raises(ValueError, match="too hot"):
            s.add(video)
        assert s.summary() == before


def test_sums_of_times():
    one, other = Times(decode=1.0, tower=2.0), Times(tower=3.0, prefill=4.0)
    assert one.plus(other) == Times(decode=1.0, tower=5.0, prefill=4.0)
    assert Times().plus(Times()) == Times()
