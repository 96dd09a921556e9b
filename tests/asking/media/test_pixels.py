"""Filters that stay from frame to frame, beside filters that are made anew for each: the same pixels."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from framefusion.asking.decoding import frames as reading
from framefusion.asking.decoding import pixels
from framefusion.asking.decoding.container import opened
from framefusion.asking.decoding.pixels import Painter, shown_size
from framefusion.asking.decoding.source import Source
from framefusion.asking.streams import open_stream
from framefusion.asking.streams import pictures as streaming
from framefusion.asking.video import VideoError, read_video
from framefusion.assets import REAL_VIDEO
from tests.asking.media import corpus
from tests.asking.media.anew import Anew

BY_NAME = {entry.name: entry for entry in corpus.ENTRIES}
ORIENTATIONS: list[pixels.Matrix | None] = [
    None,
    *((float(a), 0.0, 0.0, float(d)) for a in (1, -1) for d in (1, -1)),
    *((0.0, float(b), float(c), 0.0) for b in (1, -1) for c in (1, -1)),
]
STILLS = ("moving.gif", "moving.apng", "moving.webp", "transparent.apng", "transparent.webp")
"""Files that do not come this way."""
KINDS = ("h264.mp4", "odd-size.mp4", "interlaced.ts", "wide-pixels.mp4", "hdr-pq.mkv", "transparent.mov")


@pytest.fixture(autouse=True)
def _plain_words(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)


def told(path: Path, count: int, caplog: pytest.LogCaptureFixture) -> tuple[Any, ...]:
    """Everything that the reader says of a file."""
    caplog.clear()
    try:
        video = read_video(path, frames=count)
    except VideoError as error:
        return (str(error),)
    about = (video.duration, video.source_fps, video.total_frames, video.announced, video.damaged, video.warning)
    return video.frames, video.timestamps, video.indices, about, [record.getMessage() for record in caplog.records]


def streamed(path: Path) -> tuple[Any, ...]:
    """Everything that a stream says of a file."""
    try:
        with open_stream(path, fps=1000) as stream:
            frames = list(stream)
    except VideoError as error:
        return (str(error),)
    about = [(frame.timestamp, frame.intact) for frame in frames]
    return *[frame.pixels for frame in frames], about, stream.status.reason, stream.status.frames_damaged


def same(one: tuple[Any, ...], other: tuple[Any, ...], pixels_as_well: bool) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        if not isinstance(a, np.ndarray):
            assert a == b
            continue
        assert (a.shape, a.dtype, a.flags["C_CONTIGUOUS"]) == (b.shape, b.dtype, True)
        if pixels_as_well or a.ndim == 1:
            np.testing.assert_array_equal(a, b)


class Both:
    """Every picture both ways."""

    count = 0

    def __init__(self, stream: Any) -> None:
        self.stream, self.kept, self.anew = stream, Painter(stream), Anew(stream)

    def picture(self, frame: Any, size: tuple[int, int]) -> np.ndarray:
        Both.count += 1
        drawn = self.kept.picture(frame, size)
        np.testing.assert_array_equal(drawn, self.anew.picture(frame, size))
        return drawn


SAMPLED = [
    name if name in KINDS or place % 3 == 0 else pytest.param(name, marks=pytest.mark.whole)
    for place, name in enumerate(BY_NAME)
]
"""Every third file; the others, which are read the same ways, in ``make test-all``."""


@pytest.mark.parametrize("name", SAMPLED)
def test_every_file_gives_the_same_frames_times_and_warnings(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg conceals damage by what its memory holds, so that reading such a file twice may give other pixels."""
    path = BY_NAME[name].make(tmp_path)
    said: list[list[tuple[Any, ...]]] = []
    for way in (Painter, Anew, Both):
        for place in (reading, streaming):
            monkeypatch.setattr(place, "Painter", way)
        monkeypatch.setattr(Both, "count", 0)
        said.append([told(path, 7, caplog), told(path, 10_000, caplog), streamed(path)])
    assert Both.count or BY_NAME[name].expected == "refused" or name in STILLS
    for kept, anew, both in zip(*said, strict=True):
        for other in (kept, both):
            same(other, anew, BY_NAME[name].expected == "right")


@pytest.mark.parametrize("name", KINDS)
def test_every_orientation_is_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may change from frame to frame."""
    path = BY_NAME[name].make(tmp_path)
    with opened(Source(name, str(path))) as (container, stream):
        frames = [frame for frame, _ in zip(container.decode(stream), range(len(ORIENTATIONS)), strict=False)]
        painter, slow = Painter(stream), Anew(stream)
        for turn in range(2):
            for frame, matrix in zip(frames, ORIENTATIONS[turn:] + ORIENTATIONS[:turn], strict=False):
                monkeypatch.setattr(pixels, "display_matrix", lambda _, matrix=matrix: matrix)
                size = shown_size(frame, stream)
                np.testing.assert_array_equal(painter.picture(frame, size), slow.picture(frame, size))


def kinds() -> Iterator[Any]:
    """Frames that differ in what filters go by, in groups of two."""
    noise = np.random.default_rng(0)
    for size in ((64, 48), (50, 34), (33, 21)):
        for layout in ("yuv420p", "yuvj420p", "yuv422p10le", "yuv444p", "nv12", "gray", "rgba", "pal8"):
            for colours in ({}, {"colorspace": 1}, {"colorspace": 9, "color_range": 1}, {"color_range": 2}):
                for _ in range(2):
                    drawn = noise.integers(0, 256, (size[1], size[0], 3), np.uint8)
                    yield _frame(drawn, layout, noise, colours)


def _frame(drawn: np.ndarray, layout: str, noise: np.random.Generator, colours: dict[str, int]) -> Any:
    if layout == "pal8":
        # of each frame its own palette, some of it transparent
        indexed: Any = (drawn[..., 0], noise.integers(0, 256, (256, 4), np.uint8))
        made = av.VideoFrame.from_ndarray(indexed, format=layout)
    elif layout == "rgba":
        made = av.VideoFrame.from_ndarray(np.dstack([drawn, drawn[..., :1]]), format=layout)
    else:
        made = av.VideoFrame.from_ndarray(drawn, format="rgb24").reformat(format=layout)
    for name, value in colours.items():
        setattr(made, name, value)
    made.time_base = Fraction(1, 10)
    return made


def test_frames_of_any_kind_follow_each_other() -> None:
    frames = list(kinds())
    pairs = list(zip(frames[::2], frames[1::2], strict=True))
    order = frames + [frame for pair in random.Random(0).sample(pairs, 60) for frame in pair]
    stream = SimpleNamespace(codec_context=SimpleNamespace(color_trc=2, color_primaries=2))
    painter, slow = Painter(stream), Anew(stream)
    for frame in order:
        for size in ((64, 48), (frame.width, frame.height)):
            np.testing.assert_array_equal(painter.picture(frame, size), slow.picture(frame, size))


@pytest.fixture
def clip() -> Iterator[tuple[Any, list[Any]]]:
    """A stream that is open, and frames of it."""
    with opened(Source("real", str(REAL_VIDEO))) as (container, stream):
        yield stream, [frame for frame, _ in zip(container.decode(stream), range(12), strict=False)]


def test_a_picture_that_is_held_stays_as_it_is(clip: tuple[Any, list[Any]]) -> None:
    stream, frames = clip
    painter, slow = Painter(stream), Anew(stream)
    held = [painter.picture(frame, shown_size(frame, stream)) for frame in frames]
    for frame, picture in zip(frames, held, strict=True):
        np.testing.assert_array_equal(picture, slow.picture(frame, shown_size(frame, stream)))


def test_filters_and_their_memory_are_used_again(clip: tuple[Any, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    own = pixels._Filters.__init__

    def counted(self: Any, *given: Any) -> None:
        made.append(given)
        own(self, *given)

    monkeypatch.setattr(pixels._Filters, "__init__", counted)
    stream, frames = clip
    painter = Painter(stream)
    places = {painter.picture(frame, (160, 96)).__array_interface__["data"][0] for frame in frames}
    assert (len(made), len(places)) == (1, 1)


def test_filters_that_failed_are_not_used_again(clip: tuple[Any, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    stream, frames = clip
    painter, slow = Painter(stream), Anew(stream)
    painter.picture(frames[0], (160, 96))
    own = pixels._Filters.shown

    def failing(self: Any, frame: Any, last: bool = True) -> np.ndarray:
        self.first.push(frame)  # and stays there
        raise av.error.InvalidDataError(1, "damaged")

    monkeypatch.setattr(pixels._Filters, "shown", failing)
    with pytest.raises(av.error.InvalidDataError):
        painter.picture(frames[1], (160, 96))
    monkeypatch.setattr(pixels._Filters, "shown", own)
    np.testing.assert_array_equal(painter.picture(frames[2], (160, 96)), slow.picture(frames[2], (160, 96)))


def test_pictures_of_a_stream_do_not_keep_memory_of_the_filters(tmp_path: Path) -> None:
    with open_stream(BY_NAME["h264.mp4"].make(tmp_path), fps=1000) as stream:
        assert all(frame.pixels.base is None for frame in stream)
