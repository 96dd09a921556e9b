"""Live sources: a thread, a queue that drops, connections that are lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import av
import pytest

from framefusion.asking.decoding.errors import VideoError
from framefusion.asking.streams import Stream
from framefusion.asking.streams.live import Connection, live_frames
from framefusion.asking.streams.pictures import Decoded
from framefusion.asking.streams.waiting import Waiting
from tests.asking.streams.clips import Hurried, array

Made = Callable[[], Iterable[Any]]
"""What one connection does: frames, or an exception to raise in its place."""


class Camera:
    """A live source that follows a script, one entry for each connection; after it, none can be opened."""

    def __init__(self, *script: Made, ends: bool = False) -> None:
        self.script = list(script)
        self.ending = set(range(1, len(script) + 1)) if ends else set()
        """Which connections announce a length."""
        self.open = 0
        self.opened = 0

    @contextmanager
    def __call__(self) -> Iterator[Connection]:
        self.opened += 1
        if not self.script:
            raise VideoError("nobody answers")
        errors: list[BaseException] = []
        self.open += 1
        try:
            yield Connection(self._frames(self.script.pop(0), errors), 0.1, self.opened in self.ending, errors)
        finally:
            self.open -= 1

    @staticmethod
    def _frames(made: Made, errors: list[BaseException]) -> Iterator[Decoded]:
        for item in made():
            if isinstance(item, BaseException):
                errors.append(item)
                return
            number, stamp = item
            yield Decoded(stamp, partial(array, number))


def shots(numbers: Iterable[int], begin: float = 50.0) -> Made:
    """Numbered frames, ten a second, on a clock that says ``begin`` at the first."""
    return lambda: ((number, begin + position / 10) for position, number in enumerate(numbers))


def stream_of(camera: Camera, waiting: Waiting | None = None, reconnections: int = 3, buffer: int = 1000) -> Stream:
    return Stream("camera", live_frames("camera", camera, 10, reconnections, buffer), waiting)


def values(frames: Iterable[Any]) -> list[int]:
    return [int(frame.pixels[0, 0, 0]) for frame in frames]


def test_a_source_that_announces_its_end_ends_there() -> None:
    camera = Camera(shots(range(5)), ends=True)
    with stream_of(camera) as stream:
        frames = list(stream)
    assert values(frames) == [0, 1, 2, 3, 4]
    assert [frame.timestamp for frame in frames] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert (stream.status.ended, stream.status.reason) == (True, "the source ended")
    assert (camera.opened, camera.open) == (1, 0)


def test_of_frames_that_nobody_takes_the_oldest_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """The camera has shown everything before the second frame is taken."""
    first, shown = threading.Event(), threading.Event()

    def made() -> Iterator[tuple[int, float]]:
        yield 0, 0.0
        first.wait(60)
        for number in range(1, 50):
            yield number, number / 10
        shown.set()

    camera = Camera(made, ends=True)
    with caplog.at_level(logging.WARNING), stream_of(camera, buffer=4) as stream:
        assert values([next(stream)]) == [0]
        first.set()
        shown.wait(60)
        assert values(stream) == [46, 47, 48, 49]
    assert stream.status.frames_dropped == 45
    assert (stream.status.frames_decoded, stream.status.frames_given) == (50, 5)
    assert caplog.text.count("older ones are dropped") == 1


def test_a_lost_connection_is_opened_again_and_told(caplog: pytest.LogCaptureFixture) -> None:
    """The clock goes on by the time that went by, whatever the clock of the camera says."""
    waiting = Hurried()

    def second() -> Iterator[tuple[int, float]]:
        waiting.seconds += 4.5  # until its first frame comes
        yield from shots(range(3, 6), begin=0)()

    lost = av.error.ConnectionResetError(104, "connection reset")
    camera = Camera(lambda: [*shots(range(3))(), lost], second, shots(range(6, 8), begin=9e5))
    camera.ending = {3}
    with caplog.at_level(logging.WARNING), stream_of(camera, waiting) as stream:
        frames = list(stream)
    assert values(frames) == [0, 1, 2, 3, 4, 5]
    assert [frame.timestamp for frame in frames] == pytest.approx([0, 0.1, 0.2, 5.5, 5.6, 5.7])
    status = stream.status
    assert (status.reconnections, status.frames_dropped) == (1, 0)
    assert status.seconds_lost == pytest.approx(5.5)
    assert "camera: the connection was lost (connection reset); attempt 1 of 3 to open it again in 1 s" in caplog.text
    assert "camera: frames come again, after 5.5 s without" in caplog.text


def test_times_ascend_where_a_camera_was_ahead_of_the_clock() -> None:
    """A server may send what it has stored as fast as it can."""
    camera = Camera(shots(range(100)), shots(range(100, 103), begin=0))
    with stream_of(camera, Hurried(), reconnections=1) as stream:
        frames = list(stream)
    assert values(frames) == list(range(103))
    assert [frame.timestamp for frame in frames] == pytest.approx([n / 10 for n in range(103)])


def test_attempts_wait_longer_each_time_and_come_to_an_end(caplog: pytest.LogCaptureFixture) -> None:
    waits = []

    class Noting(Hurried):
        def wait(self, seconds: float) -> None:
            waits.append(seconds)
            super().wait(seconds)

    camera = Camera(shots(range(2)))
    with caplog.at_level(logging.WARNING), stream_of(camera, Noting(), reconnections=7) as stream:
        assert values(stream) == [0, 1]
    assert waits == [1, 2, 4, 8, 16, 30, 30]
    assert camera.opened == 8
    assert stream.status.reason == "the connection was lost (nobody answers), and 7 attempts did not bring it back"
    assert stream.status.reason in caplog.text


def test_attempts_count_from_one_again_after_a_connection_that_held() -> None:
    waiting = Hurried()

    def held() -> Iterator[tuple[int, float]]:
        yield 0, 0.0
        waiting.seconds += 61
        yield 1, 61.0

    camera = Camera(*[held] * 5)
    with stream_of(camera, waiting, reconnections=1) as stream:
        assert values(stream) == [0, 1] * 5
    assert stream.status.reconnections == 4

    def waits() -> Iterator[tuple[int, float]]:
        waiting.seconds += 100
        yield from ()

    waiting = Hurried()
    camera = Camera(held, *[waits] * 5)
    with stream_of(camera, waiting, reconnections=2) as stream:
        assert values(stream) == [0, 1]
    assert camera.opened == 3

    camera = Camera(*[shots([0])] * 5)
    with stream_of(camera, Hurried(), reconnections=1) as stream:
        assert values(stream) == [0, 0]


def test_disorder_is_no_repetition() -> None:
    camera = Camera(lambda: [(0, 5.0), (1, 5.2), (2, 5.1), (3, 5.3)], ends=True)
    with stream_of(camera) as stream:
        times = [frame.timestamp for frame in stream]
    assert stream.status.frames_decoded == 4
    assert times[-1] == pytest.approx(0.3)


def test_a_broadcast_that_can_only_be_seen_again_has_ended() -> None:
    """A playlist to which an end was written would begin from its first frame."""
    camera = Camera(shots(range(5)), shots(range(5)))
    camera.ending = {2}
    with stream_of(camera, Hurried()) as stream:
        assert values(stream) == [0, 1, 2, 3, 4]
    assert stream.status.reason == "the broadcast ended"
    assert camera.open == 0


def test_a_lost_source_with_a_length_goes_on_where_it_was() -> None:
    lost = av.error.ConnectionResetError(104, "connection reset")
    camera = Camera(lambda: [*shots(range(30))(), lost], shots(range(40)))
    camera.ending = {1, 2}
    with stream_of(camera, Hurried()) as stream:
        frames = list(stream)
    assert values(frames) == list(range(40))
    assert [frame.timestamp for frame in frames] == pytest.approx([n / 10 for n in range(40)])
    assert stream.status.frames_decoded == 40
    assert (stream.status.reconnections, stream.status.reason) == (1, "the source ended")


def test_a_source_that_cannot_be_opened_at_first_is_an_error_at_once() -> None:
    with stream_of(Camera(), Hurried()) as stream, pytest.raises(VideoError, match="nobody answers"):
        next(stream)
    assert stream.status.reason == "nobody answers"


def test_a_source_that_never_gives_a_frame_is_an_error() -> None:
    camera = Camera(lambda: [], lambda: [av.error.ExitError(1, "exit")])
    reason = r"camera gave no frame \(the connection was lost \(nothing came in time\), and 1 attempt did not"
    with stream_of(camera, Hurried(), reconnections=1) as stream, pytest.raises(VideoError, match=reason):
        next(stream)
    assert camera.opened == 2


def test_an_unexpected_error_comes_through_to_the_consumer() -> None:
    def broken() -> Iterator[tuple[int, float]]:
        yield 0, 0.0
        raise ZeroDivisionError("a mistake")

    camera = Camera(broken)
    with stream_of(camera) as stream, pytest.raises(ZeroDivisionError, match="a mistake"):
        list(stream)
    assert camera.open == 0


def endless(showing: threading.Event | None = None) -> Made:
    def made() -> Iterator[tuple[int, float]]:
        number = 0
        while True:
            yield number, number / 10
            number += 1
            if showing is not None:
                showing.set()

    return made


def test_stop_from_another_thread_ends_a_wait_for_frames() -> None:
    """Of a camera that gives one frame and then nothing more."""
    over = threading.Event()

    def made() -> Iterator[tuple[int, float]]:
        yield 0, 0.0
        over.wait(60)

    camera = Camera(made)
    with stream_of(camera) as stream:
        next(stream)
        thread = threading.Thread(target=lambda: (stream.stop(), over.set()))
        thread.start()
        assert list(stream) == []
        thread.join()
    assert stream.status.reason == "stopped"
    assert not any(thread.name == "stream camera" for thread in threading.enumerate())


def test_stop_ends_a_wait_between_attempts() -> None:
    waiting = Waiting()
    camera = Camera(shots([0]))
    with stream_of(camera, waiting) as stream:
        next(stream)
        stream.stop()
        assert list(stream) == []
    assert not any(thread.name == "stream camera" for thread in threading.enumerate())


def test_an_interrupt_of_a_wait_for_frames_ends_the_thread() -> None:
    """Also without a block that closes the stream."""
    over = threading.Event()

    class Interrupted(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            raise KeyboardInterrupt

    def made() -> Iterator[tuple[int, float]]:
        over.wait(60)
        yield from endless()()

    waiting = Waiting()
    waiting.condition = Interrupted()
    camera = Camera(made)
    stream = stream_of(camera, waiting)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    assert waiting.stopped
    over.set()
    for thread in threading.enumerate():
        if thread.name == "stream camera":
            thread.join()
    assert camera.open == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_of_the_consumer_closes_the_camera(error: type[BaseException]) -> None:
    camera = Camera(endless())
    stream = stream_of(camera, buffer=2)

    def use() -> None:
        with stream:
            next(stream)
            raise error

    with pytest.raises(error):
        use()
    assert camera.open == 0
    assert not any(thread.name == "stream camera" for thread in threading.enumerate())
