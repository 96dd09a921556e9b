"""Marking tokens on frames."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from framefusion.asking.report.data import FrameView
from framefusion.asking.report.frames import embedded_width, frame_strip, marked, picture_uri, shade_uri
from framefusion.showing.tokens import DROPPED, KEPT, LEGEND, MERGED, legend_picture

GREY = np.full((40, 60, 3), 200, np.uint8)


def view(states, segment=0):
    return FrameView(GREY, np.array(states, np.uint8), 0.0, segment)


def decode(uri):
    kind, _, payload = uri.partition(";base64,")
    assert kind in ("data:image/jpeg", "data:image/webp")
    return Image.open(io.BytesIO(base64.b64decode(payload)))


def test_the_overlay_has_the_size_of_the_picture():
    over = np.asarray(decode(shade_uri(GREY, np.array([[DROPPED, KEPT]], np.uint8))))
    assert over.shape == (40, 60, 4)
    np.testing.assert_array_equal(over[..., 3], np.where(np.arange(60) < 30, 255, 0)[None].repeat(40, 0))
    wide = np.zeros((400, 1000, 3), np.uint8)
    assert decode(shade_uri(wide, np.array([[KEPT]], np.uint8), 360)).size == (360, 144)


def test_dropped_and_merged_are_dimmed_kept_is_untouched():
    picture = np.asarray(marked(view([[DROPPED, MERGED, KEPT]]), 60)).astype(int)
    dropped, merged, kept = picture[20, 10], picture[20, 30], picture[20, 50]
    assert (kept == 200).all()
    assert dropped.max() < 60 < merged.min() < 150


def test_without_places_a_picture_stays_as_it_is():
    loose = FrameView(GREY, np.array([[DROPPED]], np.uint8), 0.0, 0, placed=False)
    assert (np.asarray(marked(loose, 60)) == 200).all()


@pytest.mark.parametrize(("frames", "width"), [(1, 640), (64, 333), (1000, 84)])
def test_pictures_of_many_frames_are_smaller(frames, width):
    one = FrameView(np.zeros((90, 160, 3), np.uint8), np.array([[KEPT]], np.uint8), 0.0, 0)
    assert embedded_width([one] * frames) == width


def test_picture_is_no_wider_than_needed():
    assert decode(picture_uri(GREY)).size == (60, 40)
    assert decode(picture_uri(np.zeros((400, 1000, 3), np.uint8))).size == (640, 256)
    assert decode(picture_uri(np.zeros((400, 1000, 3), np.uint8), 360)).size == (360, 144)


def test_strip_has_rows_of_equal_length():
    frames = [view([[KEPT]])] * 10
    assert frame_strip(frames, width=60, legend=False).size == (2 * 12 + 5 * 68 - 8, 2 * 12 + 2 * 48 - 8)
    assert frame_strip(frames, width=60, per_row=10, legend=False).size[1] == 2 * 12 + 40


def test_the_legend_stands_below_the_strip():
    frames = [view([[KEPT, MERGED], [DROPPED, KEPT]])] * 10
    bare, whole = (np.asarray(frame_strip(frames, legend=legend)) for legend in (False, True))
    above = len(bare) - 6
    np.testing.assert_array_equal(whole[:above], bare[:above])
    words = np.asarray(legend_picture(LEGEND, whole.shape[1] - 24, (24, 27, 33)))
    np.testing.assert_array_equal(whole[above : above + len(words), 12:-12], words)


def test_strip_marks_segment_boundaries():
    same = np.asarray(frame_strip([view([[KEPT]]), view([[KEPT]])], width=60))
    other = np.asarray(frame_strip([view([[KEPT]]), view([[KEPT]], segment=1)], width=60))
    between = slice(12 + 60, 12 + 68)
    changed = (same != other).any(axis=(0, 2))
    assert changed[between].any()
    assert not np.delete(changed, np.arange(len(changed))[between]).any()


def test_strip_of_nothing():
    with pytest.raises(ValueError, match="frames is empty"):
        frame_strip([])
