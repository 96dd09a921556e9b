from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefusion.evaluation.needle import QUESTION_KINDS, load
from framefusion.evaluation.needle.objects import COLOR_NAMES, KINDS
from framefusion.evaluation.needle.questions import COUNTS, ORDINALS, Question, sample_questions, vocabulary
from framefusion.evaluation.needle.scenes import Scene, Video, sample_video


def right_answer(video: Video, question: Question) -> str:
    """The answer to the words of a question, found by looking at every thing of the video."""
    words = question.text.rstrip("?").replace(",", "").split()
    things = [(s, thing) for s, scene in enumerate(video.scenes) for thing in scene.things]
    colors = [word for word in words if word in COLOR_NAMES]
    kinds = [word for word in words if word in KINDS]
    ordinals = [word for word in words if word in ORDINALS]
    larges = [scene.large.name for scene in video.scenes]
    if question.sort == "main":
        return larges[ORDINALS.index(ordinals[0])]
    if question.sort == "count":
        return COUNTS[sum(thing.color == colors[0] for _, thing in things) - 1]
    if question.sort in ("after", "before"):
        at = larges.index(f"{colors[0]} {kinds[0]}")
        return larges[at + (1 if question.sort == "after" else -1)]
    meant = [(s, x) for s, x in things if x.kind == kinds[0] and (not colors or x.color == colors[0])]
    assert len(meant) == 1
    scene, thing = meant[0]
    answers = {"color": thing.color, "scene": ORDINALS[scene], "direction": thing.direction}
    return str(answers[question.sort])


@given(seed=st.integers(0, 10_000), footage=st.sampled_from(["static", "fast"]))
def test_every_question_has_one_right_answer_and_known_words(seed: int, footage: str) -> None:
    rng = np.random.default_rng(seed)
    video = sample_video(rng, frames=16, footage=footage, split="test")  # type: ignore[arg-type]
    words = set(vocabulary())
    for question in sample_questions(rng, video, 14):
        assert question.answer == right_answer(video, question)
        said = question.text.replace("?", "").split() + question.answer.split()
        assert set(said) <= words
        assert question.kind in QUESTION_KINDS
        for scene, thing in question.evidence:
            assert video.scenes[scene].things[thing]


def test_kinds_without_an_answer_are_refused() -> None:
    video = sample_video(np.random.default_rng(1), frames=16, footage="static", split="test")
    still = Video(tuple(Scene(scene.things[:1], "static", 0) for scene in video.scenes), video.lengths)
    with pytest.raises(ValueError, match=r"kinds must hold a kind of question .* got \('needle',\)"):
        sample_questions(np.random.default_rng(0), still, 3, ["needle"])


def test_a_set_is_the_same_every_time_and_half_of_it_is_fast() -> None:
    one, two = load(8, 6, seed=3), load(8, 6, seed=3)
    for a, b in zip(one, two, strict=True):
        assert a.id == b.id
        assert a.questions == b.questions
        assert np.array_equal(a.frames, b.frames)
    assert [video.footage for video in one] == ["static", "fast"] * 3
    other = load(8, 6, seed=4)
    assert all(a.questions != b.questions for a, b in zip(one, other, strict=True))
    longer = load(16, 2, seed=3)
    assert longer[0].frames.shape == (16, 96, 96, 3)


def test_guessing_the_most_frequent_answer_does_not_pay() -> None:
    asked = [question for video in load(8, 60, kinds=QUESTION_KINDS) for question in video.questions]
    for kind in QUESTION_KINDS:
        answers = [question.answer for question in asked if question.kind == kind]
        assert len(answers) > 60
        assert max(answers.count(a) for a in set(answers)) / len(answers) < 0.42, kind


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": 5}, "frames must be at least 6, got 5"),
        ({"videos": 0}, "videos must be at least 1, got 0"),
        ({"questions": 0}, "questions must be at least 1"),
        ({"kinds": ["colour"]}, "kinds must be some of large, small, .*, got colour"),
        ({"kinds": []}, "got none"),
        ({"split": "dev"}, "split must be 'train' or 'test', got 'dev'"),
    ],
)
def test_what_cannot_be_drawn(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(**arguments)
