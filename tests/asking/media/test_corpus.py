"""Every file of the corpus through the reader, beside what ``ffmpeg`` shows of it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from framefusion.asking.decoding.errors import IrregularError
from framefusion.asking.decoding.frames import read_through, sought
from framefusion.asking.decoding.source import Source
from framefusion.asking.decoding.timeline import decoded_timeline, index_of
from framefusion.asking.video import VideoError, read_video
from tests.asking.media import corpus
from tests.asking.media.judge import faults

COUNTS = (8, 3, 10_000)
BY_NAME = {entry.name: entry for entry in corpus.ENTRIES}


@pytest.mark.parametrize("name", BY_NAME)
def test_frames_times_orientation_and_colours_are_those_that_ffmpeg_shows(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entry = BY_NAME[name]
    path = entry.make(tmp_path)
    if entry.expected == "refused":
        with pytest.raises(VideoError):
            read_video(path)
        return
    truth = corpus.truth_of(entry, path)
    with caplog.at_level(logging.WARNING):
        video = read_video(path, frames=COUNTS[0])
    assert bool(caplog.records) == entry.warned
    if entry.expected == "damaged":
        assert 0 < video.damaged < len(video)
        return
    assert video.duration == pytest.approx(truth.duration, abs=0.01)
    assert video.total_frames == len(truth.times)
    assert video.damaged == 0
    for count in COUNTS:
        video = read_video(path, frames=count)
        assert not faults(truth, count, video.frames, video.timestamps, entry.tolerance)


def test_the_corpus_names_each_file_once() -> None:
    assert len(BY_NAME) == len(corpus.ENTRIES) >= 45


@pytest.mark.parametrize("name", ["h264.mp4", "hevc.ts", "vp9.webm", "edit-list.mov", "screen.mkv", "av1.mp4"])
def test_seeking_gives_what_decoding_everything_gives(name: str, tmp_path: Path) -> None:
    path = BY_NAME[name].make(tmp_path)
    source = Source(name, str(path))
    index, timeline = index_of(source), decoded_timeline(source)
    np.testing.assert_allclose(index.timeline.times, timeline.times, atol=1e-9)
    assert index.timeline.duration == pytest.approx(timeline.duration)
    for wanted in ([0], [len(timeline.times) - 1], [1, 7, 19, 20, 33], list(range(len(timeline.times)))):
        wanted = [position for position in wanted if position < len(timeline.times)]
        np.testing.assert_array_equal(sought(source, index, wanted), read_through(source, wanted))


@pytest.mark.parametrize("name", ["h264-b-frames.avi", "stream.h264", "clock-restarts.ts", "ends-early.mp4"])
def test_packets_that_do_not_tell_are_noticed(name: str, tmp_path: Path) -> None:
    source = Source(name, str(BY_NAME[name].make(tmp_path)))
    with pytest.raises(IrregularError):  # noqa: PT012 - either step may notice it
        index = index_of(source)
        sought(source, index, [0])
