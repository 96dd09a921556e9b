import numpy as np
import pytest
import torch
from batches import PROMPT, BatchPlan
from lessons import DENSE_SIZES, PARSE_SIZES, asked, make_batch, plan
from vision import IGNORE

from framefusion.evaluation.needle.objects import COLOR_NAMES, KINDS
from framefusion.evaluation.needle.questions import COUNTS, SORTS, Question


def test_a_step_s_batch_is_reproducible_from_the_same_bank(bank, texts, family):
    spec = BatchPlan(3, 8 * family.frames_per_slot, 100, 6)
    first, again = (make_batch(5, spec, bank, texts, 1) for _ in range(2))
    for name in ("features", "places", "ids", "padding", "answers", "evidence", "parse"):
        assert torch.equal(getattr(first, name), getattr(again, name)), name
    assert not torch.equal(first.ids, make_batch(6, spec, bank, texts, 1).ids)


def test_shapes_and_ranges(bank, texts, family):
    batch = make_batch(0, BatchPlan(2, 16 * family.frames_per_slot, 256, 24), bank, texts, 0)
    assert batch.visual == 1024
    assert batch.places.shape == (2, 256)
    assert (batch.places.diff(dim=1) > 0).all()
    assert int(batch.places.max()) < 1024
    assert batch.ids.shape == (2, 24, PROMPT + 2)
    for column, size in enumerate(PARSE_SIZES):
        values = batch.parse[..., column]
        assert ((values >= 0) | (values == IGNORE)).all()
        assert int(values.max()) < size
    for name, size in DENSE_SIZES.items():
        values = batch.dense[name]
        assert values.shape == (2, 256)
        assert ((values >= 0) | (values == IGNORE)).all()
        assert int(values.max()) < size


def test_only_what_the_shown_tokens_tell_is_asked(bank, texts, family):
    batch = make_batch(3, BatchPlan(4, 16 * family.frames_per_slot, 40, 24), bank, texts, 0)
    said = (batch.answers != IGNORE).any(-1)
    assert said.any()
    assert torch.equal(said, batch.evidence.any(-1))


def test_what_is_counted_is_looked_at_once(bank, texts, family):
    batch = make_batch(0, BatchPlan(3, 16 * family.frames_per_slot, 256, 24), bank, texts, 0)
    counts = (batch.parse[..., 0] == SORTS.index("count")) & batch.evidence.any(-1)
    assert counts.any()
    for video, number in counts.nonzero().tolist():
        (word,) = [w for w in batch.answers[video, number].tolist() if w not in (IGNORE, texts.tokenizer.eos_token_id)]
        assert texts.tokenizer.decode([word]) == COUNTS[int(batch.evidence[video, number].sum()) - 1]
        assert batch.dense["first"][video][batch.evidence[video, number]].eq(1).all()


def test_a_prompt_ends_where_the_answer_begins(bank, texts, family):
    batch = make_batch(1, BatchPlan(2, 8 * family.frames_per_slot, 200, 12), bank, texts, 0)
    assistant = texts.encode("assistant")[0]
    end = texts.tokenizer.eos_token_id
    for ids, padding, answer in zip(
        batch.ids.flatten(0, 1), batch.padding.flatten(), batch.answers.flatten(0, 1), strict=True
    ):
        if (answer == IGNORE).all():
            continue
        assert ids[PROMPT - 1] == assistant
        assert (ids[:padding] == texts.pad).all()
        assert texts.pad not in ids[padding:PROMPT]
        words = answer[answer != IGNORE]
        assert words[-1] == end
        assert torch.equal(ids[PROMPT : PROMPT + len(words) - 1], words[:-1])


def test_what_a_question_asks():
    count = Question("how many red things are in the video?", "two", "count", "count", (), color="red")
    none = (len(KINDS), len(COLOR_NAMES), 4)
    assert asked(count) == (SORTS.index("count"), none[0], COLOR_NAMES.index("red"), none[2])
    main = Question("", "red star", "large", "main", (), ordinal="third")
    assert asked(main) == (SORTS.index("main"), *none[:2], 2)


@pytest.mark.parametrize("step", [0, 50, 500, 999])
def test_the_curriculum_fits_the_videos(step):
    spec = plan(0, step, 1000)
    assert spec.tokens <= 64 * spec.frames
    assert spec == plan(0, step, 1000)
    if step < 60:
        assert spec.frames == 8


def test_later_steps_have_every_length():
    frames = {plan(0, step, 1000).frames for step in np.arange(100, 1000)}
    assert frames == {8, 16, 32, 64}
