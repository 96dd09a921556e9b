"""Iterators of frames."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from framefusion.asking.streams import open_stream
from framefusion.asking.video import VideoError
from tests.asking.streams.clips import array


def test_arrays_are_even_in_time_and_none_is_left_out() -> None:
    with open_stream((array(n) for n in range(7)), fps=2) as stream:
        frames = list(stream)
    assert [int(frame.pixels[0, 0, 0]) for frame in frames] == list(range(7))
    assert [frame.timestamp for frame in frames] == pytest.approx([n / 2 for n in range(7)])
    assert (stream.status.frames_decoded, stream.status.frames_given, stream.status.frames_dropped) == (7, 7, 0)
    assert (stream.status.ended, stream.status.reason) == (True, "the iterator ended")


def test_pictures_become_rgb() -> None:
    pictures = [Image.new("L", (4, 2), 7), Image.new("RGBA", (4, 2), (0, 0, 0, 0)), Image.new("RGB", (6, 3), (1, 2, 3))]
    with open_stream(pictures) as stream:
        frames = list(stream)
    assert [frame.pixels.shape for frame in frames] == [(2, 4, 3), (2, 4, 3), (3, 6, 3)]
    assert [frame.pixels[0, 0].tolist() for frame in frames] == [[7, 7, 7], [255, 255, 255], [1, 2, 3]]


def test_a_stack_of_frames_is_an_iterable_of_them() -> None:
    with open_stream(np.zeros((3, 8, 16, 3), np.uint8)) as stream:
        assert len(list(stream)) == 3


def test_times_that_are_given_stay_and_are_sampled() -> None:
    with open_stream([(100 + n / 4, array(n)) for n in range(12)], fps=1) as stream:
        frames = list(stream)
    assert [frame.timestamp for frame in frames] == [100, 101, 102]
    assert stream.status.frames_decoded == 12


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([], r"the iterator of frames gave no frame \(the iterator ended\)"),
        ([np.zeros((4, 4, 3))], r"frame 0 must be a uint8 array \(H, W, 3\) or a PIL image, got ndarray of float64"),
        ([array(), np.zeros((4, 4), np.uint8)], r"frame 1 must be .* \(4, 4\)"),
        (["a.png"], "frame 0 must be"),
        ([(1.0, array()), (1.0, array())], "timestamps must ascend, got 1 s for frame 1 after 1 s"),
        ([(float("nan"), array())], "timestamps must ascend"),
        ([(1.0, array()), array()], "frame 1 comes without a timestamp, unlike those before"),
        ([array(), (1.0, array())], "frame 1 comes with a timestamp"),
    ],
)
def test_frames_that_are_none(frames: list[object], reason: str) -> None:
    with open_stream(frames) as stream, pytest.raises(VideoError, match=reason):
        list(stream)
    assert stream.status.ended


def test_an_error_of_the_iterator_comes_through() -> None:
    def broken() -> Iterator[np.ndarray]:
        yield array()
        raise RuntimeError("no film")

    with open_stream(broken()) as stream:
        next(stream)
        with pytest.raises(RuntimeError, match="no film"):
            next(stream)
    assert stream.status.reason == "no film"


def test_what_is_no_source() -> None:
    with pytest.raises(VideoError, match="must be a path, an address or an iterable of frames, got int"):
        open_stream(7)  # type: ignore[arg-type]
    with pytest.raises(VideoError, match="follow=True is for a file that grows, and an iterator is none"):
        open_stream([array()], follow=True)
