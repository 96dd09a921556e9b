"""What is drawn of kept, merged and dropped tokens, and that the legend is drawn by the same hand."""

import re

import numpy as np
import pytest
from PIL import Image

from framefusion.showing.tokens import (
    ABSENT,
    DROPPED,
    KEPT,
    LEGEND,
    MERGED,
    drawn,
    legend_html,
    legend_picture,
    looks_of,
    shade,
    swatch,
)

RED = np.full((40, 60, 3), (200, 30, 30), np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)


def states(*rows):
    return np.array(rows, np.uint8)


def parts(picture, columns):
    """The middle of each of some columns of equal width, away from the line around what is kept."""
    edge = picture.shape[1] // columns
    return [picture[5:-5, number * edge + 5 : (number + 1) * edge - 5].astype(int) for number in range(columns)]


def grey(picture):
    return np.ptp(picture, axis=-1).max() == 0


def test_kept_pixels_are_those_of_the_picture():
    grid = np.random.default_rng(1).choice([DROPPED, MERGED, KEPT], (6, 8)).astype(np.uint8)
    kept = np.kron(grid == KEPT, np.ones((20, 20), bool))
    np.testing.assert_array_equal(drawn(NOISE, grid)[kept], NOISE[kept])
    over = shade(NOISE, grid)
    np.testing.assert_array_equal(over[..., 3] == 0, kept)
    laid = Image.alpha_composite(Image.fromarray(NOISE).convert("RGBA"), Image.fromarray(over)).convert("RGB")
    np.testing.assert_array_equal(np.asarray(laid), drawn(NOISE, grid))


def test_what_is_not_kept_is_grey_and_dim_and_what_went_is_dimmer():
    kept, merged, dropped, absent = parts(drawn(np.repeat(RED, 2, axis=1), states([KEPT, MERGED, DROPPED, ABSENT])), 4)
    assert not grey(kept)
    assert grey(merged)
    assert grey(dropped)
    assert dropped.max() < merged.min() < 200
    np.testing.assert_array_equal(absent, dropped)


@pytest.mark.parametrize("level", [0, 40, 128, 255])
def test_merged_and_dropped_are_told_apart_on_any_picture(level):
    """Whatever they show: the lightest that dropped tokens can be is darker than the darkest merged ones."""
    flat = np.full((8, 8, 3), level, np.uint8)
    white = np.full((8, 8, 3), 255, np.uint8)
    merged, dropped = drawn(flat, states([MERGED])), drawn(white, states([DROPPED]))
    assert merged.min() > dropped.max()
    assert drawn(white, states([MERGED])).max() < 160


def test_what_is_seen_can_still_be_made_out_where_it_is_dimmed():
    for state in (MERGED, DROPPED):
        dimmed = drawn(NOISE, states([state]))
        assert dimmed.std() > 5
        assert dimmed.std() < NOISE.std() / 2


def test_a_line_runs_around_what_is_kept_outside_of_it():
    picture = drawn(np.zeros((40, 60, 3), np.uint8), states([DROPPED, KEPT, DROPPED], [DROPPED, DROPPED, DROPPED]))
    assert (picture[:20, 20:40] == 0).all()
    assert (picture[:21, [19, 40]] > 150).all()
    assert (picture[20, 19:41] > 150).all()
    assert (picture[:, :19] < 100).all()
    assert (picture[21:] < 100).all()


def test_tokens_cover_equal_parts_of_any_picture():
    over = shade(np.zeros((7, 10, 3), np.uint8), states([KEPT, DROPPED, KEPT], [DROPPED, KEPT, DROPPED]))
    transparent = over[..., 3] == 0
    assert transparent.sum() == pytest.approx(35, abs=2)
    assert transparent[0, 0]
    assert transparent[-1, 5]
    assert not transparent[-1, 0]


def test_a_legend_names_what_pictures_show():
    def names(*grids):
        return [look.name for look in looks_of([states(grid) for grid in grids])]

    assert names([KEPT]) == names() == ["kept"]
    assert names([KEPT, MERGED]) == ["kept", "merged"]
    assert names([DROPPED], [MERGED]) == ["kept", "merged", "dropped"]
    assert names([ABSENT]) == ["kept", "dropped"]


def test_swatches_are_drawn_as_tokens_are():
    kept, merged, dropped = ([int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour, _ in map(swatch, LEGEND))
    assert len(set(kept)) > 1
    assert len(set(merged)) == len(set(dropped)) == 1
    assert merged > dropped
    (sample,) = drawn(np.array([[kept]], np.uint8), states([MERGED]))[0].tolist()
    assert sample == merged


def test_the_legend_is_the_same_as_text_and_as_a_picture():
    page = legend_html(LEGEND)
    assert re.findall(r"</span>([^<]+)</li>", page) == [look.words for look in LEGEND]
    for look in LEGEND:
        assert ",".join(swatch(look)) in page
    wide = np.asarray(legend_picture(LEGEND, 600, (24, 27, 33)))
    colours = {tuple(colour) for colour in wide.reshape(-1, 3).tolist()}
    for look in LEGEND:
        first, last = (tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in swatch(look))
        near = min(sum(abs(a - b) for a, b in zip(first, colour, strict=True)) for colour in colours)
        assert near <= 30, (look.name, first, last)


def test_a_narrow_legend_takes_more_lines():
    wide, narrow = (legend_picture(LEGEND, width, (0, 0, 0)) for width in (600, 120))
    assert narrow.height == 3 * wide.height
    assert narrow.width == 120
    # Nothing is cut: no letter reaches the edge.
    assert not np.asarray(narrow)[:, -1].any()
