"""Rows about one video that follow each other share its prefill."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

import framefusion.assets
from framefusion import FrameFusion
from framefusion.batch import Local, Plan, plan
from framefusion.batch.plan import ModelAnswerer
from framefusion.batch.rows import Row, RowError, read_rows
from tests.batch.fake import write

CLIP = Path(framefusion.assets.__file__).parent / "videos" / "scenes.mp4"
QUESTIONS = ("what comes after the red circle?", "which way does the square move?")


@pytest.fixture
def clips(tmp_path):
    names = [str(tmp_path / name) for name in ("a.mp4", "b.mp4")]
    for name in names:
        shutil.copyfile(CLIP, name)
    return names


@pytest.fixture
def reads(monkeypatch):
    seen = []
    original = plan.read_media

    def read(source, **options):
        seen.append(source)
        return original(source, **options)

    monkeypatch.setattr(plan, "read_media", read)
    return seen


def answers(answerer, clips):
    rows = [answerer.answer([clip], question) for clip in clips for question in QUESTIONS]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_results_are_those_of_each_row_by_itself(clips, reads):
    shared = answers(ModelAnswerer(Plan(frames=6)), clips)
    assert reads == clips
    assert shared == answers(ModelAnswerer(Plan(frames=6, share=False)), clips)
    assert len(reads) == 2 + 4


@pytest.mark.parametrize("share", [True, False])
def test_frames_are_read_at_the_size_that_the_processor_makes_of_them(clips, monkeypatch, share):
    answerer = ModelAnswerer(Plan(frames=6, share=share))
    (ready,) = answerer.prepare(clips[:1]).media
    assert (ready.frames.shape, ready.own_size) == ((6, 96, 96, 3), (256, 256))
    found = answers(answerer, clips)
    monkeypatch.setattr(plan.Fitting, "__call__", lambda *given: None)
    answerer = ModelAnswerer(Plan(frames=6, share=share))
    assert answerer.prepare(clips[:1]).media[0].frames.shape == (6, 256, 256, 3)
    assert answers(answerer, clips) == found


def test_a_file_that_changed_is_read_again(clips, reads):
    answerer = ModelAnswerer(Plan(frames=4))
    answerer.answer(clips[:1], QUESTIONS[0])
    os.utime(clips[0], ns=(1, 1))
    answerer.answer(clips[:1], QUESTIONS[1])
    assert reads == [clips[0], clips[0]]


def test_a_row_that_fails_leaves_the_next_one_alone(clips, reads, tmp_path):
    answerer = ModelAnswerer(Plan(frames=4))
    expected = answers(answerer, clips[:1])
    with pytest.raises(RowError):
        answerer.answer([str(tmp_path / "none.mp4")], "what?")
    assert answers(answerer, clips[:1]) == expected


def test_nothing_is_shared_where_nothing_can_be(clips, reads):
    settings = FrameFusion(keep={0: 0.3}, relevance="similarity")
    answers(ModelAnswerer(Plan(settings, frames=4)), clips[:1])
    assert reads == [clips[0], clips[0]]


def test_a_model_with_a_cache_of_another_kind_answers_each_row_by_itself(clips, reads, monkeypatch):
    expected = answers(ModelAnswerer(Plan(frames=4)), clips[:1])
    load = plan.load

    def loaded(**options):
        made = load(**options)
        made.model.generation_config.cache_implementation = "static"
        return made

    monkeypatch.setattr(plan, "load", loaded)
    assert answers(ModelAnswerer(Plan(frames=4)), clips[:1]) == expected
    assert reads == [clips[0]] * 3


def rows_of(tmp_path, clips, names):
    data = tmp_path / "rows.jsonl"
    write(data, ({"video": clips.get(name, name), "question": q} for name in names for q in QUESTIONS))
    return list(read_rows(data))


@pytest.mark.parametrize("share", [True, False])
def test_reading_ahead_changes_no_row(clips, tmp_path, share):
    """A missing file, one that is no video, and a line that is no question spoil their own rows and no other."""
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    named = dict(zip("ab", clips, strict=True))
    rows = rows_of(tmp_path, named, ["a", "none.mp4", "b", "broken.mp4", "a"])
    rows.insert(3, Row(99, "0" * 12, problem="line 99 is no JSON"))
    found = []
    for ahead in (True, False):
        answered = Local(ahead).answers(
            lambda: ModelAnswerer(Plan(frames=4, share=share)), rows, len(rows), lambda model: None, True
        )
        found.append([(row, {k: v for k, v in own.items() if k != "seconds"}) for row, own in answered])
    assert found[0] == found[1]
    assert [row for row, _ in found[0]] == rows
    assert ["error" in own for _, own in found[0]] == [i in (2, 3, 4, 7, 8) for i in range(11)]


def test_the_next_video_is_read_while_this_one_is_asked_about(clips, tmp_path, reads):
    read_before = []

    class Noting(ModelAnswerer):
        def answer(self, media, question, prepared=None):
            if clips[0] in media:
                while len(reads) < 2:
                    time.sleep(0.01)
            read_before.append(len(reads))
            return super().answer(media, question, prepared)

    rows = rows_of(tmp_path, dict(zip("ab", clips, strict=True)), ["a", "b"])
    answered = list(Local().answers(lambda: Noting(Plan(frames=4)), rows, len(rows), lambda model: None, True))
    assert all("answer" in own for _, own in answered)
    assert read_before == [2, 2, 2, 2]
    assert reads == clips


def test_a_file_that_changes_behind_the_reading_is_read_again(clips, reads):
    answerer = ModelAnswerer(Plan(frames=4))
    ready = answerer.prepare(clips[:1])
    os.utime(clips[0], ns=(1, 1))
    answerer.answer(clips[:1], QUESTIONS[0], lambda: ready)
    assert reads == [clips[0], clips[0]]
