"""From an answer to the plain data of the report."""

import numpy as np
import torch
from PIL import Image

from framefusion.asking.report.data import report_data, token_states
from framefusion.reduction.layout import VisualItem, VisualLayout
from framefusion.showing.tokens import ABSENT, DROPPED, KEPT, MERGED
from tests.asking.report import samples


def test_nothing_reduced_keeps_everything():
    data = report_data(samples.answer())
    assert all((frame.states == KEPT).all() for frame in data.frames)
    assert data.stages == []
    assert not data.segmented
    assert [(row.tokens, row.kept, row.merged) for row in data.segments] == [(12, 12, 0)]


def test_final_state_is_that_of_the_last_stage():
    # columns 2 … 13 are visual; 0, 1 and 14 are text and always stay
    first = samples.stage(1, [0, 1, 2, 3, 4, 5, 6, 9, 10, 13, 14], [0, 1, 2, 3, 4, 5, 6, 3, 4, 9, 10, 3, 4, 13, 14])
    last = samples.stage(2, [0, 1, 2, 4, 10, 13, 14], [0, 1, 2, -1, 4, -1, -1, -1, 4, -1, 10, -1, 4, 13, 14])
    answer = samples.answer(stages=[first, last])
    k, m, d = KEPT, MERGED, DROPPED
    # column 7 and 11 had merged into 3, which was pruned later: they are gone; 8 and 12 live on in 4
    assert token_states(answer).tolist() == [k, d, k, d, d, d, m, d, k, d, m, k]
    data = report_data(answer)
    assert [frame.states.tolist() for frame in data.frames] == [
        [[k, d], [k, d]],
        [[d, d], [m, d]],
        [[k, d], [m, k]],
    ]
    assert [(row.layer, row.kept) for row in data.stages] == [(1, 8), (2, 4)]


def test_temporal_patches_show_their_first_frame():
    data = report_data(samples.answer(frames=6, grid=(3, 2, 2)))
    assert [frame.seconds for frame in data.frames] == [0.0, 1.0, 2.0]
    assert [int(frame.picture[0, 0, 0]) for frame in data.frames] == [0, 2, 4]


def test_odd_frames_of_a_padded_temporal_patch():
    data = report_data(samples.answer(frames=5, grid=(3, 2, 2)))
    assert [int(frame.picture[0, 0, 0]) for frame in data.frames] == [0, 2, 4]


def test_segments_are_rows_in_order_of_time():
    segments = torch.tensor([7] * 4 + [7] * 4 + [3] * 4)
    data = report_data(samples.answer(segments=segments, stages=[samples.stage(1, [0, 1, 2, 5, 10, 14])]))
    assert data.segmented
    assert [frame.segment for frame in data.frames] == [0, 0, 1]
    first, second = data.segments
    assert (first.number, first.first_frame, first.last_frame, first.seconds) == (0, 0, 1, 0.0)
    assert (first.tokens, first.kept) == (8, 2)
    assert (second.number, second.first_frame, second.last_frame, second.seconds) == (1, 2, 2, 2.0)
    assert (second.tokens, second.kept) == (4, 1)
    assert first.share == 0.25


def test_ragged_frames_have_absent_positions():
    answer = samples.answer(grid=(2, 1, 3), frames=2)
    layout = answer.layout
    keep = [0, 1, 3, 4, 5]
    answer.layout = type(layout)(
        layout.columns[keep], layout.item[keep], layout.frame[keep], layout.patch[keep], layout.grids, layout.kinds
    )
    first, second = report_data(answer).frames
    assert first.states.tolist() == [[KEPT, KEPT, ABSENT]]
    assert first.tokens == 2
    np.testing.assert_array_equal(second.states, [[KEPT] * 3])


def test_photographs_stand_where_they_were_shown():
    layout = VisualLayout.of(
        [
            VisualItem.run("image", (1, 2, 3), 1),
            VisualItem.run("video", (2, 1, 2), 8),
            VisualItem.run("image", (1, 1, 9), 20),
        ]
    )
    answer = samples.answer(frames=4, segments=torch.tensor([0] * 6 + [1] * 4 + [2] * 9))
    answer.media = (Image.new("RGB", (60, 40), (1, 2, 3)), *answer.media, Image.new("RGB", (20, 20), (4, 5, 6)))
    answer.layout = layout
    answer.stages = [samples.stage(1, [0, 1, 2, 8, 20])]
    data = report_data(answer, names=["a.jpg", "clip.mp4", "b.jpg"])
    assert [(frame.medium, frame.seconds, frame.placed, frame.segment) for frame in data.frames] == [
        (0, None, True, 0),
        (1, 0.0, True, 1),
        (1, 1.0, True, 1),
        (2, None, False, 2),
    ]
    assert [frame.picture[0, 0].tolist() for frame in data.frames] == [[1, 2, 3], [0] * 3, [2] * 3, [4, 5, 6]]
    assert data.frames[0].states.tolist() == [[KEPT, KEPT, DROPPED], [DROPPED] * 3]
    assert [(row.kind, row.name, row.duration, row.tokens, row.kept) for row in data.media] == [
        ("image", "a.jpg", None, 6, 2),
        ("video", "clip.mp4", 2.0, 4, 1),
        ("image", "b.jpg", None, 9, 1),
    ]
    assert (data.video_name, data.duration) == ("a.jpg, clip.mp4, b.jpg", 2.0)
    assert [row.seconds for row in data.segments] == [None, 0.0, None]


def test_a_template_may_put_one_kind_before_the_other():
    answer = samples.answer(frames=2)
    answer.media = (*answer.media, Image.new("RGB", (60, 40)))
    answer.names = (*answer.names, "photograph")
    answer.layout = VisualLayout.of([VisualItem.run("image", (1, 2, 3), 1), VisualItem.run("video", (2, 1, 2), 8)])
    data = report_data(answer)
    assert [(row.name, row.tokens) for row in data.media] == [("clip.mp4", 4), ("photograph", 6)]
    assert [frame.medium for frame in data.frames] == [0, 0, 1]


def test_without_a_question_there_is_no_answer():
    data = report_data(samples.answer(question=None), "framefusion inspect clip.mp4", [("torch", "2")])
    assert data.question is None
    assert data.answer is None
    assert data.video_name == "clip.mp4"
    assert data.command == "framefusion inspect clip.mp4"
    assert data.settings == [("torch", "2")]


def test_frames_are_drawn_behind_the_last_stage_and_those_that_took_most():
    first = [0, 1, *range(2, 14)]
    stages = [
        samples.stage(1, first),
        samples.stage(2, first[:-1]),
        samples.stage(3, first[:6]),
        samples.stage(4, first[:5]),
        samples.stage(4, first[:4]),
    ]
    data = report_data(samples.answer(stages=stages))
    assert [(row.layer, row.kept) for row in data.views] == [(1, 12), (3, 4), (4, 2)]
    for frame in data.frames:
        assert len(frame.views) == 3
        assert frame.views[-1] is frame.states
    totals = [sum((frame.views[number] == KEPT).sum() for frame in data.frames) for number in range(3)]
    assert totals == [12, 4, 2]
    assert report_data(samples.answer()).views == []


def test_settings_are_those_of_the_answer_unless_others_are_given():
    assert report_data(samples.answer()).settings == [("torch", "2.9")]
    assert report_data(samples.answer(), settings=[("a", "b")]).settings == [("a", "b")]
