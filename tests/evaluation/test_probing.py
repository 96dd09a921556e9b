"""Which questions a probe asks, and what it hands to the model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefusion.evaluation import Question
from framefusion.evaluation.probing import GENERIC, Demo, chosen, probe_data, probe_prompts
from framefusion.reduction.schedule import STAGES
from tests.evaluation.fake import Noise


def asked(*counts: int) -> list[Question]:
    return [Question(f"{v}/{i}", str(v), f"q{i}", None) for v, count in enumerate(counts) for i in range(count)]


@given(st.lists(st.integers(1, 5), max_size=12), st.integers(1, 30))
def test_questions_are_spread_over_the_videos(counts: list[int], count: int) -> None:
    questions = asked(*counts)
    found = chosen(questions, count)
    assert len({question.id for question in found}) == len(found) == min(count, len(questions))
    assert {question.id for question in found} <= {question.id for question in questions}
    assert len({question.video for question in found}) == min(count, len(counts))


def test_one_question_of_each_video_in_turn() -> None:
    assert [question.id for question in chosen(asked(3, 3, 3, 3), 2)] == ["1/1", "3/0"]
    assert [question.id for question in chosen(asked(2, 1), 5)] == ["0/0", "1/0", "0/1"]


@pytest.mark.parametrize("name", ["llava-onevision", "qwen2.5-vl"])
def test_a_probe_with_a_data_set(models, name) -> None:
    loaded = models[name]
    data = Noise(videos=2, answer=None)
    questions = chosen(data.questions(4), 3)
    prompts = probe_prompts(loaded, data, 4, questions)
    assert [len(prompt["input_ids"]) for prompt in prompts] == [1, 1, 1]
    found = probe_data(loaded, data, 4, questions, 0.3)
    assert found.prompts == 3
    assert found.tried[0].stages == STAGES
    assert all(entry.divergence >= 0 for entry in found.tried)
    assert found == probe_data(loaded, data, 4, questions, 0.3)


def test_the_bundled_videos_have_questions_without_labels() -> None:
    data = Demo()
    questions = data.questions(4)
    assert len(questions) == 2 * len(GENERIC)
    assert all(question.answer is None for question in questions)
    assert {len(data.video(question.video, 4, 4)) for question in questions[::6]} == {4}
