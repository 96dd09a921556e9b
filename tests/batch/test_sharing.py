"""Rows about one video that follow each other share its prefill."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import framefusion.assets
from framefusion import FrameFusion
from framefusion.batch import Plan, plan
from framefusion.batch.plan import ModelAnswerer
from framefusion.batch.rows import RowError

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
