import numpy as np
import pytest
from checkpoint import UNK, build_tokenizer
from questions import QUESTION_KINDS, add_filler, ask, possible_questions, sample_questions, vocabulary
from scenes import sample_video

from framefusion.needle.objects import COLOR_NAMES, KINDS

ORDINALS = {"first": 0, "second": 1, "third": 2, "fourth": 3, "last": -1, "final": -1}


def _words(text):
    return [word.strip("?.,:") for word in text.split()]


def _asked(kind):
    for seed in range(150):
        rng = np.random.default_rng(seed)
        spec = sample_video(rng, digit_share=0.3)
        question = ask(rng, spec, kind)
        if question is not None:
            yield question, [scene.obj for scene in spec.scenes]


def _mentioned(question, objects):
    """The scenes that the question's colour and kind words allow, read from the text alone."""
    words = _words(question.text)
    return [
        i
        for i, obj in enumerate(objects)
        if obj.kind in words and (obj.color in words or not any(color in words for color in COLOR_NAMES))
    ]


@pytest.mark.parametrize(("kind", "shift"), [("after", 1), ("before", -1)])
def test_order_answers_follow_from_the_scenes(kind, shift):
    for question, objects in _asked(kind):
        # A template may say "one" or a shape only as the subject, so one scene must remain.
        about = _mentioned(question, objects)
        assert len(about) == 1, question
        assert 0 <= about[0] + shift < len(objects)
        assert question.answer == objects[about[0] + shift].name


def test_color_and_object_answers_follow_from_the_scenes():
    for question, objects in _asked("color"):
        matching = [obj for obj in objects if obj.kind in _words(question.text)]
        assert [obj.color for obj in matching] == [question.answer]
    for question, objects in _asked("object"):
        matching = [obj for obj in objects if obj.color in _words(question.text)]
        assert [obj.kind for obj in matching] == [question.answer]


def test_scene_answers_follow_from_the_scenes():
    for question, objects in _asked("scene"):
        ordinal = next(word for word in _words(question.text) if word in ORDINALS)
        assert question.answer == objects[ORDINALS[ordinal]].name


def test_every_kind_is_asked_and_shares_are_respected():
    rng = np.random.default_rng(0)
    spec = sample_video(rng, scenes=4)
    assert {question.kind for question in sample_questions(rng, spec, 200)} == set(QUESTION_KINDS)
    only = dict.fromkeys(QUESTION_KINDS, 0.0) | {"after": 1.0}
    assert {question.kind for question in sample_questions(rng, spec, 20, only)} == {"after"}
    with pytest.raises(ValueError, match="kind must be one of"):
        ask(rng, spec, "when")


def test_ambiguous_questions_are_not_asked():
    rng = np.random.default_rng(0)
    for _ in range(100):
        spec = sample_video(rng, scenes=4)
        kinds = [scene.obj.kind for scene in spec.scenes]
        for about, _ in possible_questions(spec)["color"]:
            assert kinds.count(kinds[about]) == 1


def test_no_question_or_answer_has_an_unknown_word():
    tokenizer = build_tokenizer()
    rng = np.random.default_rng(0)
    for _ in range(300):
        spec = sample_video(rng, digit_share=0.5)
        for question in sample_questions(rng, spec, 6):
            text = f"{add_filler(rng, question.text, 0.5)} {question.answer}"
            assert UNK not in tokenizer.convert_ids_to_tokens(tokenizer.encode(text)), text


def test_vocabulary_is_sorted_unique_words():
    words = vocabulary()
    assert words == sorted(set(words))
    assert {*COLOR_NAMES, *KINDS} <= set(words)
    assert all(word.isalpha() and word.islower() for word in words)
