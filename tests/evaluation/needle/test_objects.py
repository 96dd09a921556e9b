from __future__ import annotations

import numpy as np
import pytest

from framefusion.evaluation.needle.objects import COLOR_NAMES, KINDS, SHAPES, Thing, digit_images, digit_samples, draw


def thing(kind: str = "square", **changes: object) -> Thing:
    values = {"role": "large", "color": "red", "rgb": (215.0, 40.0, 40.0), "size": 0.4, "rotation": 0.0}
    return Thing(**{**values, "kind": kind, "start": (0.3, 0.5), "end": (0.7, 0.5), **changes})  # type: ignore[arg-type]


def test_the_splits_share_no_handwriting_and_leave_none_out() -> None:
    _, labels = digit_images()
    for digit, (train, test) in enumerate(zip(digit_samples("train"), digit_samples("test"), strict=True)):
        assert not set(train) & set(test)
        assert sorted([*train, *test]) == np.flatnonzero(labels == digit).tolist()
        assert len(test) >= 30
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'dev'"):
        digit_samples("dev")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("end", "direction"),
    [((0.7, 0.5), "right"), ((0.1, 0.55), "left"), ((0.3, 0.9), "down"), ((0.35, 0.1), "up"), ((0.3, 0.5), None)],
)
def test_direction_is_the_way_of_the_longer_side(end: tuple[float, float], direction: str | None) -> None:
    assert thing(end=end).direction == direction


def test_a_needle_is_visible_in_one_frame_whatever_their_number() -> None:
    needle = thing(moment=0.99)
    for frames in (1, 2, 5, 16):
        assert [needle.visible(f, frames) for f in range(frames)].count(True) == 1
    assert all(thing().visible(f, 5) for f in range(5))


@pytest.mark.parametrize("kind", [*SHAPES, "seven"])
def test_a_thing_is_drawn_where_its_path_says(kind: str) -> None:
    digit = int(digit_samples("train")[7][0]) if kind == "seven" else -1
    for u, centre in ((0.0, 0.3), (1.0, 0.7)):
        frame = np.zeros((96, 96, 3), dtype=np.float32)
        alpha = draw(frame, thing(kind, digit=digit), u)
        y, x = np.nonzero(alpha > 0.5)
        assert abs(x.mean() / 96 - centre) < 0.05
        assert abs(y.mean() / 96 - 0.5) < 0.06
        assert (frame[alpha == 1] == (215, 40, 40)).all()
        assert (frame[alpha == 0] == 0).all()


def test_shapes_differ_by_more_than_an_edge() -> None:
    masks = [draw(np.zeros((96, 96, 3), dtype=np.float32), thing(kind), 0.0) for kind in SHAPES]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert np.abs(one - other).sum() > 0.12 * max(one.sum(), other.sum())


def test_names_are_words_of_one_kind() -> None:
    assert not set(COLOR_NAMES) & set(KINDS)
