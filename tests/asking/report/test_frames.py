"""Marking tokens on frames."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from framefusion.asking.report.data import ABSENT, DROPPED, KEPT, MERGED, FrameView
from framefusion.asking.report.frames import frame_strip, marked, mask_uri, picture_uri, token_mask

GREY = np.full((40, 60, 3), 200, np.uint8)


def view(states, segment=0):
    return FrameView(GREY, np.array(states, np.uint8), 0.0, segment)


def decode(uri):
    kind, _, payload = uri.partition(";base64,")
    assert kind in ("data:image/jpeg", "data:image/png")
    return Image.open(io.BytesIO(base64.b64decode(payload)))


def test_mask_has_one_pixel_per_token():
    mask = token_mask(np.array([[DROPPED, MERGED, KEPT, ABSENT]], np.uint8))
    assert mask.shape == (1, 4, 4)
    assert mask[0, :, 3].tolist() == [186, 130, 0, 0]
    np.testing.assert_array_equal(np.asarray(decode(mask_uri(np.array([[DROPPED, KEPT]], np.uint8)))), mask[:, [0, 2]])


def test_dropped_is_dimmed_merged_is_tinted_kept_is_untouched():
    picture = np.asarray(marked(view([[DROPPED, MERGED, KEPT]]), 60)).astype(int)
    dropped, merged, kept = picture[20, 10], picture[20, 30], picture[20, 50]
    assert (kept == 200).all()
    assert dropped.max() < 100
    assert merged[0] > merged[1] > merged[2] + 40


def test_picture_is_no_wider_than_needed():
    assert decode(picture_uri(GREY)).size == (60, 40)
    assert decode(picture_uri(np.zeros((400, 1000, 3), np.uint8))).size == (360, 144)


def test_strip_has_rows_of_equal_length():
    frames = [view([[KEPT]])] * 10
    assert frame_strip(frames, width=60).size == (2 * 12 + 5 * 68 - 8, 2 * 12 + 2 * 48 - 8)
    assert frame_strip(frames, width=60, per_row=10).size[1] == 2 * 12 + 40


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
