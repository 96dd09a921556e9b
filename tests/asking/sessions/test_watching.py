"""Watching a stream: when it is asked, about what, and what is told."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from framefusion.asking.decoding.errors import VideoError
from framefusion.asking.loading import LoadedModel
from framefusion.asking.prompts import AskError
from framefusion.asking.sessions import Observation, Session, watch
from framefusion.asking.streams import Stream, open_stream
from framefusion.errors import ArgumentError
from framefusion.reduction.settings import FrameFusion
from tests.asking.media.corpus import picture
from tests.asking.streams.clips import Hurried, array, evenly, write
from tests.asking.streams.test_growing import Parts
from tests.asking.streams.test_live import Camera, stream_of

QUESTION, OTHER = "what colour is the circle", "describe the video"


class Noted:
    """In the place of a session: notes what it is shown, and answers with what it is told to."""

    def __init__(self, answers: Iterable[str] = (), chunk: int = 4) -> None:
        self.answers, self.chunk = iter(answers), chunk
        self.parts: list[tuple[list[float], bool]] = []
        self.asked: list[int] = []
        """How many frames had been shown at each question."""

    def add(self, frames: Sequence[Any], *, timestamps: Sequence[float], new: bool) -> None:
        assert len(frames) == len(timestamps)
        assert len({frame.shape for frame in frames}) == 1
        self.parts.append((list(timestamps), new))

    def ask_all(self, questions: Sequence[str]) -> list[Any]:
        self.asked.append(sum(len(times) for times, _ in self.parts))
        return [SimpleNamespace(text=next(self.answers, "same"), question=question) for question in questions]

    def summary(self) -> Any:
        return SimpleNamespace(frames=sum(len(times) for times, _ in self.parts))


def timed(times: Iterable[float], size: tuple[int, int] = (16, 8)) -> Iterator[tuple[float, np.ndarray]]:
    return ((time, array(round(10 * time), size)) for time in times)


def pictures(count: int, rate: float = 2) -> list[tuple[float, np.ndarray]]:
    return [(number / rate, picture(number, 96, 64)) for number in range(count)]


def moments(seen: Iterable[Observation]) -> list[float]:
    return [round(one.timestamp, 3) for one in seen]


@pytest.mark.parametrize(
    ("times", "every", "expected"),
    [
        (range(31), 10, [10, 20, 30]),
        (range(36), 10, [10, 20, 30, 35]),  # and what came last
        ([0.25 * n for n in range(21)], 2, [2, 4, 5]),
        ([n * 1.001 for n in range(21)], 10, [10.01, 20.02]),  # the nearest frame, behind
        ([n * 0.999 for n in range(22)], 10, [9.99, 19.98, 20.979]),  # and before
        ([0, 1, 2, 25, 26, 31], 10, [25, 31]),  # after a gap, once for all that was missed
        ([100, 101, 102, 103], 2, [102, 103]),  # a clock that begins late
        ([0, 1, 2, 3], 0.1, [1, 2, 3]),  # no more often than frames come
        ([5], 10, [5]),
    ],
)
def test_it_asks_at_the_nearest_frames_and_at_the_end(
    times: Sequence[float], every: float, expected: list[float]
) -> None:
    session: Any = Noted()
    with open_stream(timed(times), fps=1000) as stream:
        assert moments(watch(session, stream, [QUESTION], every)) == expected
    shown = [time for part, _ in session.parts for time in part]
    assert shown == list(times)
    assert session.asked == [sum(time <= moment + 1e-3 for time in times) for moment in expected]
    assert [new for _, new in session.parts] == [True] + [False] * (len(session.parts) - 1)
    assert max(len(part) for part, _ in session.parts) <= session.chunk


def test_only_changes_count_as_changes_for_each_question_by_itself() -> None:
    session: Any = Noted(["no", "red", "no", "red", "yes", "red", "yes", "blue"])
    with open_stream(timed(range(5))) as stream:
        seen = list(watch(session, stream, [QUESTION, OTHER], 1))
    assert [one.reply.question for one in seen] == [QUESTION, OTHER] * 4
    assert [one.changed for one in seen] == [True, True, False, False, True, False, False, True]
    assert [one.summary.frames for one in seen] == [2, 2, 3, 3, 4, 4, 5, 5]


def test_frames_of_another_size_are_shown_by_themselves() -> None:
    session: Any = Noted()
    frames = [*timed([0, 1, 2]), *timed([3, 4], (8, 8)), *timed([5])]
    with open_stream(frames) as stream:
        assert moments(watch(session, stream, [QUESTION], 100)) == [5]
    assert [times for times, _ in session.parts] == [[0, 1, 2], [3, 4], [5]]


def test_it_watches_for_so_long() -> None:
    session: Any = Noted()
    frames = timed(range(100))
    with open_stream(frames) as stream:
        assert moments(watch(session, stream, [QUESTION], 4, seconds=10)) == [4, 8, 10]
    assert next(frames)[0] == 11, "what comes later is not taken"


def test_a_stream_that_somebody_stops_is_not_asked_again() -> None:
    session: Any = Noted()

    def frames() -> Iterator[tuple[float, np.ndarray]]:
        for time, frame in timed(range(100)):
            if time == 8:
                stream.stop()
            yield time, frame

    with open_stream(frames()) as stream:
        assert moments(watch(session, stream, [QUESTION], 3)) == [3, 6]
    assert stream.status.reason == "stopped"


def test_what_a_live_stream_drops_while_it_is_asked_is_counted() -> None:
    asking, shown = threading.Event(), threading.Event()

    class Slow(Noted):
        def ask_all(self, questions: Sequence[str]) -> list[Any]:
            asking.set()
            assert shown.wait(60)
            return super().ask_all(questions)

    def made() -> Iterator[tuple[int, float]]:
        yield 0, 0.0
        yield 1, 0.1
        asking.wait(60)
        for number in range(2, 12):
            yield number, number / 10
        shown.set()

    session: Any = Slow()
    with stream_of(Camera(made, ends=True), buffer=4) as stream:
        seen = list(watch(session, stream, [QUESTION], 0.1))
    assert [time for part, _ in session.parts for time in part] == pytest.approx([0, 0.1, 0.8, 0.9, 1.0, 1.1])
    assert {one.status.frames_dropped for one in seen} == {6}


@pytest.mark.parametrize(
    ("questions", "every", "seconds", "reason"),
    [
        ([], 1, 1, "questions must be a list of texts that is not empty"),
        (QUESTION, 1, 1, "questions must be a list of texts that is not empty"),
        ([QUESTION, " "], 1, 1, "questions must be texts that are not empty"),
        ([QUESTION], 0, 1, "every must be in"),
        ([QUESTION], "10s", 1, "every must be a number"),
        ([QUESTION], 1, -1, "seconds must be in"),
    ],
)
def test_what_cannot_be_right_is_refused_before_a_frame_is_taken(
    questions: Any, every: Any, seconds: Any, reason: str
) -> None:
    frames = timed(range(3))
    session: Any = Noted()
    with open_stream(frames) as stream, pytest.raises(ArgumentError, match=reason):
        watch(session, stream, questions, every, seconds=seconds)
    assert next(frames)[0] == 0


@pytest.mark.parametrize("name", ["llava-onevision", "qwen2.5-vl"])
def test_answers_are_those_of_showing_it_anew(name: str, models: dict[str, LoadedModel]) -> None:
    """With all tokens; the slow way shows everything up to the question once more, and asks one by one."""
    loaded, frames = models[name], pictures(9)
    settings = FrameFusion(cost=1.0)

    def session(chunk: int) -> Session:
        return Session(loaded.model, loaded.processor, settings, chunk=chunk, max_new_tokens=6)

    with open_stream(frames, fps=2) as stream:
        seen = list(watch(session(4), stream, [QUESTION, OTHER], 1.5))
    assert moments(seen) == [1.5, 1.5, 3, 3, 4, 4]
    for one in seen:
        anew = session(32)
        shown = [(time, frame) for time, frame in frames if time <= one.timestamp]
        anew.add([frame for _, frame in shown], timestamps=[time for time, _ in shown])
        assert one.reply.text == anew.ask(one.reply.question).text
        assert one.summary.frames == len(shown)


def test_it_goes_behind_what_the_session_was_shown(models: dict[str, LoadedModel]) -> None:
    """Whose times say nothing about those of the stream."""
    loaded = models["llava-onevision"]
    session = Session(loaded.model, loaded.processor, chunk=4, max_new_tokens=2)
    session.add([frame for _, frame in pictures(4)], timestamps=[50, 51, 52, 53])
    with open_stream(pictures(8), fps=2) as stream:
        assert moments(watch(session, stream, [QUESTION], 2)) == [2, 3.5]
    assert [count for _, count in session.summary().items] == [4, 8]


def test_what_is_held_stays_within_the_limit(models: dict[str, LoadedModel]) -> None:
    loaded = models["llava-onevision"]
    session = Session(loaded.model, loaded.processor, FrameFusion(cost=1.0), chunk=2, memory=64, max_new_tokens=1)
    with open_stream(pictures(24), fps=2) as stream:
        seen = list(watch(session, stream, [QUESTION], 1))
    assert {one.summary.held for one in seen[2:]} == {64}
    assert seen[-1].summary.forgotten == 24 * 16 - 64


def test_a_part_that_is_more_than_the_limit_ends_it(models: dict[str, LoadedModel]) -> None:
    loaded = models["llava-onevision"]
    session = Session(loaded.model, loaded.processor, FrameFusion(cost=1.0), chunk=4, memory=48, max_new_tokens=1)
    with open_stream(pictures(8), fps=2) as stream, pytest.raises(AskError, match="smaller chunk"):
        list(watch(session, stream, [QUESTION], 10))


def test_an_interrupt_leaves_the_session_with_what_was_shown(models: dict[str, LoadedModel]) -> None:
    loaded = models["llava-onevision"]
    session = Session(loaded.model, loaded.processor, chunk=4, max_new_tokens=2)

    def frames() -> Iterator[Any]:
        yield from pictures(6)
        raise KeyboardInterrupt

    with open_stream(frames(), fps=2) as stream, pytest.raises(KeyboardInterrupt):
        list(watch(session, stream, [QUESTION], 10))
    assert session.summary().frames == 4
    assert session.ask(QUESTION).new_tokens


def test_a_file_that_grows(tmp_path: Path, models: dict[str, LoadedModel]) -> None:
    path = tmp_path / "growing.ts"
    grow = Parts(write(tmp_path / "a.ts", evenly(40)), path, 9)
    loaded = models["llava-onevision"]
    session = Session(loaded.model, loaded.processor, chunk=8, max_new_tokens=2)
    with open_stream(path, fps=2, follow=True, idle=3, waiting=Hurried(grow)) as stream:
        seen = list(watch(session, stream, [QUESTION], 1))
    assert moments(seen) == pytest.approx([1, 2, 3, 3.5], abs=0.06)
    assert seen[-1].summary.frames == seen[-1].status.frames_given == 8


def test_a_stream_without_frames_is_an_error(tmp_path: Path) -> None:
    session: Any = Noted()
    stream: Stream = open_stream(iter(()))
    with stream, pytest.raises(VideoError, match="gave no frame"):
        list(watch(session, stream, [QUESTION], 1))
    assert session.asked == []
