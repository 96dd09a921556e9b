"""Files that are still being written."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import pytest

from framefusion.asking.streams import open_stream
from framefusion.asking.streams.waiting import Waiting
from framefusion.asking.video import VideoError
from tests.asking.media import corpus
from tests.asking.streams.clips import Hurried, evenly, numbers_of, write

FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
GROWING = [("a.ts", {}), ("a.mkv", {}), ("a.mp4", FRAGMENTED)]


class Parts:
    """Appends a part of a file to another one with each call."""

    def __init__(self, whole: Path, path: Path, parts: int) -> None:
        self.data, self.path = whole.read_bytes(), path
        self.size = math.ceil(len(self.data) / parts)
        self.written = 0
        path.touch()

    def __call__(self) -> None:
        with self.path.open("ab") as file:
            self.written += file.write(self.data[self.written : self.written + self.size])


@pytest.mark.parametrize(("name", "options"), GROWING)
@pytest.mark.parametrize("parts", [2, 7, 100])
def test_a_file_is_read_as_it_grows(name: str, options: dict[str, str], parts: int, tmp_path: Path) -> None:
    """Every look at its end finds a little more, from nothing on; then there is no more for long."""
    path = tmp_path / f"growing-{name}"
    grow = Parts(write(tmp_path / name, evenly(40), options=options), path, parts)
    waiting = Hurried(grow)
    with open_stream(path, fps=10, follow=True, idle=3, waiting=waiting) as stream:
        assert numbers_of(stream) == list(range(40))
    assert stream.status.reason == "nothing came for 3 s"
    assert grow.written == len(grow.data)


@pytest.mark.parametrize(("name", "options"), GROWING)
def test_frames_come_before_the_file_is_whole(name: str, options: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / f"growing-{name}"
    grow = Parts(write(tmp_path / name, evenly(600), options=options), path, 100)
    with open_stream(path, fps=10, follow=True, waiting=Hurried(grow)) as stream:
        assert corpus.number_of(next(stream).pixels) == 0
        assert grow.written < len(grow.data)


def test_a_thread_writes_while_another_reads(tmp_path: Path) -> None:
    done = threading.Event()

    class UntilWritten(Waiting):
        """On this clock no time goes by before everything is written."""

        seconds = 0.0

        def now(self) -> float:
            return self.seconds

        def wait(self, seconds: float) -> None:
            if done.wait(0.001):
                self.seconds += seconds

    path = tmp_path / "growing.ts"
    grow = Parts(write(tmp_path / "a.ts", evenly(100)), path, 300)

    def writing() -> None:
        while grow.written < len(grow.data):
            grow()
        done.set()

    thread = threading.Thread(target=writing)
    thread.start()
    with open_stream(path, fps=10, follow=True, idle=1, waiting=UntilWritten()) as stream:
        assert numbers_of(stream) == list(range(100))
    thread.join()


@pytest.mark.parametrize("part", [1, 1000])
def test_an_mp4_with_its_index_at_the_end_is_refused_at_once(part: int, tmp_path: Path) -> None:
    whole = write(tmp_path / "a.mp4", evenly(40)).read_bytes()
    (tmp_path / "plain.mp4").touch()
    written = 0

    def grow() -> None:
        nonlocal written
        with (tmp_path / "plain.mp4").open("ab") as file:
            written += file.write(whole[written : written + part])

    with open_stream(tmp_path / "plain.mp4", follow=True, waiting=Hurried(grow)) as stream:
        with pytest.raises(VideoError, match=r"index comes at its end.*MPEG-TS, Matroska or fragmented MP4"):
            next(stream)
        assert written < 1001


def test_an_mp4_with_its_index_in_front_can_be_followed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", evenly(40), options={"movflags": "faststart"})
    with open_stream(path, fps=10, follow=True, waiting=Hurried()) as stream:
        assert numbers_of(stream) == list(range(40))


def test_stop_ends_the_wait_for_more(tmp_path: Path) -> None:
    """From another thread, of a file for which it would wait for ever."""
    path = write(tmp_path / "a.ts", evenly(40))
    waits = threading.Event()

    class Told(Waiting):
        def wait(self, seconds: float) -> None:
            waits.set()
            super().wait(seconds)

    with open_stream(path, fps=10, follow=True, idle=math.inf, waiting=Told()) as stream:
        thread = threading.Thread(target=lambda: (waits.wait(60), stream.stop()))
        thread.start()
        assert len(list(stream)) <= 40
        thread.join()
    assert stream.status.reason == "stopped"


@pytest.mark.parametrize("there", [0, 40])
def test_an_interrupt_while_waiting_comes_through(there: int, tmp_path: Path) -> None:
    """Through the demuxer, which would swallow it; also while the file is still empty."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    path = tmp_path / "a.ts"
    write(path, evenly(there)) if there else path.touch()
    with open_stream(path, fps=10, follow=True, waiting=Hurried(interrupt)) as stream:
        with pytest.raises(KeyboardInterrupt):
            list(stream)
        assert stream.status.frames_given <= there


def test_a_file_that_stays_empty_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.ts").touch()
    with (
        open_stream(tmp_path / "a.ts", follow=True, waiting=Hurried()) as stream,
        pytest.raises(VideoError, match=r"a\.ts is not a video that can be read"),
    ):
        next(stream)


def test_what_cannot_be_followed(tmp_path: Path) -> None:
    for given, reason in (
        (tmp_path / "gone.ts", "no such file"),
        (tmp_path, "is for a file that grows"),
        ("-", "no such file"),
        ("rtsp://host/live", "is for a file that grows, and rtsp://host/live is none"),
    ):
        with pytest.raises(VideoError, match=reason):
            open_stream(given, follow=True)
