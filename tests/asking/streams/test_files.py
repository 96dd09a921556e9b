"""Files, whole and in order."""

from __future__ import annotations

import gc
import io
import logging
import sys
import tracemalloc
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from framefusion.asking.streams import open_stream
from framefusion.asking.video import VideoError, read_video
from tests.asking.media import corpus
from tests.asking.streams.clips import evenly, numbers_of, write

BY_NAME = {entry.name: entry for entry in corpus.ENTRIES}
NAMES = (
    "h264.mp4", "fragmented.mp4", "vp9.webm", "xvid.avi", "h264-b-frames.avi", "h264.ts", "mpeg1.mpg", "stream.h264",
    "moving.gif", "moving.webp", "clock-restarts.ts", "clock-jumps.ts", "clock-wraps.ts", "starts-inside.ts", "gap.ts",
    "screen.mkv", "late-start.mkv", "edit-list.mp4", "one-frame.mp4", "cover.mp4", "playlist.m3u8", "turned-90.mp4",
    "turned-270-hflip.mp4", "turned-180.mp4", "wide-and-turned.mp4", "interlaced.ts", "transparent.mov",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_frame_and_its_time_are_those_of_the_reader_that_knows_the_whole_file(name: str, tmp_path: Path) -> None:
    path = BY_NAME[name].make(tmp_path)
    video = read_video(path, frames=10_000)
    with open_stream(path, fps=1000) as stream:
        frames = list(stream)
    assert [frame.timestamp for frame in frames] == pytest.approx(video.timestamps.tolist(), abs=1e-6)
    for frame, picture in zip(frames, video.frames, strict=True):
        np.testing.assert_array_equal(frame.pixels, picture)
    assert stream.status.frames_damaged == 0
    assert stream.status.reason == "the file ended"


def test_a_rate_takes_frames_at_even_times(tmp_path: Path) -> None:
    with open_stream(write(tmp_path / "a.mp4", evenly(45)), fps=1) as stream:
        frames = list(stream)
    assert [corpus.number_of(frame.pixels) for frame in frames] == [0, 10, 20, 30, 40]
    assert [frame.timestamp for frame in frames] == pytest.approx([0, 1, 2, 3, 4])
    assert (stream.status.frames_decoded, stream.status.frames_given) == (45, 5)


def test_a_picture_that_stays_is_given_once(tmp_path: Path) -> None:
    """Screen recordings have frames only where something changes."""
    with open_stream(write(tmp_path / "a.mkv", [0, 0.1, 0.2, 7.25, 7.3, 20]), fps=2) as stream:
        assert [(corpus.number_of(f.pixels), round(f.timestamp, 3)) for f in stream] == [(0, 0), (3, 7.25), (5, 20)]


def test_a_change_of_size_is_given_as_it_is(tmp_path: Path) -> None:
    with open_stream(BY_NAME["size-changes.ts"].make(tmp_path), fps=1000) as stream:
        shapes = [frame.pixels.shape for frame in stream]
    assert shapes == [(96, 160, 3)] * 20 + [(192, 320, 3)] * 20


def test_stamps_that_are_not_in_order_ascend(tmp_path: Path) -> None:
    """Of lost packets a decoder makes frames out of order."""
    with open_stream(BY_NAME["lost-packets.ts"].make(tmp_path), fps=1000) as stream:
        times = [frame.timestamp for frame in stream]
    assert (np.diff(times) > 0).all()
    assert times[-1] < 4


@pytest.mark.parametrize("name", ["some-lost.mp4", "lost-packets.ts"])
def test_damaged_frames_are_given_and_counted(name: str, tmp_path: Path) -> None:
    path = BY_NAME[name].make(tmp_path)
    video = read_video(path, frames=10_000)
    with open_stream(path, fps=1000) as stream:
        frames = list(stream)
    assert len(frames) == len(video)
    assert sum(not frame.intact for frame in frames) == stream.status.frames_damaged == video.damaged > 0


@pytest.mark.parametrize("name", ["ends-early.mp4", "tail-lost.mkv"])
def test_a_file_that_ends_too_early_says_so(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), open_stream(BY_NAME[name].make(tmp_path), fps=1000) as stream:
        assert list(stream)
    assert any(word in stream.status.reason for word in ("of the 4.0 s it announces", "cannot be read on"))
    assert stream.status.reason in caplog.text


def test_a_folder_and_a_photograph(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in (9, 10, 2):
        Image.fromarray(corpus.picture(number)).save(folder / f"frame{number}.png")
    with open_stream(folder, fps=1) as stream:
        assert numbers_of(stream) == [2, 9, 10]
    with open_stream(folder / "frame9.png") as stream:
        assert numbers_of(stream) == [9]
    (folder / "frame2.png").unlink()
    Image.fromarray(corpus.picture(1, 320, 192)).save(folder / "frame11.png")
    with open_stream(str(folder), fps=0.5) as stream:
        assert [(frame.timestamp, frame.pixels.shape) for frame in stream] == [(0, (96, 160, 3)), (2, (192, 320, 3))]


def test_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with write(tmp_path / "a.ts", evenly(5)).open("rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
        with open_stream("-", fps=10) as stream:
            assert numbers_of(stream) == [0, 1, 2, 3, 4]


def test_files_that_give_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video at all, " * 100)
    for given, reason in (("gone.mp4", "no such file"), ("empty.mp4", "is empty"), ("a\0b", "cannot be opened")):
        with pytest.raises(VideoError, match=reason):
            open_stream(tmp_path / given)
    with pytest.raises(VideoError, match="must be a text, got bytes"):
        open_stream(b"a.mp4")
    with open_stream(tmp_path / "text.mp4") as stream, pytest.raises(VideoError, match="is not a video"):
        next(stream)
    with open_stream(tmp_path) as stream, pytest.raises(VideoError, match="directory without pictures"):
        next(stream)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(write(tmp_path / "a.mkv", evenly(30)).read_bytes()[:700])
    with open_stream(cut) as stream, pytest.raises(VideoError) as found:
        next(stream)
    assert "\n" not in str(found.value)


def test_stop_ends_a_file_in_the_middle(tmp_path: Path) -> None:
    with open_stream(write(tmp_path / "a.mkv", evenly(30)), fps=10) as stream:
        for frame in stream:
            if corpus.number_of(frame.pixels) == 7:
                stream.stop()
    assert stream.status.frames_given == 8
    assert stream.status.reason == "stopped"


def test_two_hours_at_one_frame_a_second_take_the_memory_of_a_few_frames(tmp_path: Path) -> None:
    path = write(tmp_path / "long.mkv", evenly(7200, 1), size=(64, 48))
    alive: set[int] = set()
    times: list[float] = []
    most = 0
    with open_stream(path, fps=1) as stream:
        for frame in stream:
            times.append(frame.timestamp)
            alive.add(len(times))
            weakref.finalize(frame.pixels, alive.discard, len(times))
            most = max(most, len(alive))
            if len(times) == 6200:  # it makes Python slow
                gc.collect()
                tracemalloc.start()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert times == pytest.approx(list(range(7200)))
    assert most <= 3
    assert peak < 1000 * 64 * 48 * 3 / 10
