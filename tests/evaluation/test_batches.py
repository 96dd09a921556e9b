"""Which questions are answered at once."""

import pytest
import torch

from framefusion.asking.encodings import prompts
from framefusion.evaluation import Question
from framefusion.evaluation.batches import Asked, batches
from tests.evaluation.fake import ASKED, Noise


@pytest.fixture(scope="module")
def asked(models):
    """Three questions about videos 0 and 1, one of which has choices, and one about video 2."""
    loaded, made = models["llava-onevision"], []
    for video, texts in (("0", ASKED), ("1", ASKED), ("2", ASKED[:1])):
        shown = Noise().video(video, 4, 4)
        pairs = [
            (Question(f"{video}/{i}", video, text, "red", choices=(" red",) if i == 2 else ()), prompt)
            for i, (text, prompt) in enumerate(
                zip(
                    [text for text, _ in texts],
                    prompts(loaded.model, loaded.processor, shown, [text for text, _ in texts]),
                    strict=True,
                )
            )
        ]
        for choosing in (False, True):
            own = [pair for pair in pairs if bool(pair[0].choices) is choosing]
            made.append(Asked(video, (choosing,), own))
    return loaded.model, made


def ids(batch):
    return [question.id for question, _ in batch.pairs]


def test_those_of_one_video_share_and_a_single_one_does_not(asked):
    model, given = asked
    made = batches(model, given, 8, sharing=True)
    assert [(batch.video, sorted(ids(batch))) for batch in made] == [
        ("0", ["0/0", "0/1"]),
        ("0", ["0/2"]),
        ("1", ["1/0", "1/1"]),
        ("1", ["1/2"]),
        (None, ["2/0"]),
    ]
    assert [batch.end is None for batch in made] == [batch.video is None for batch in made]
    placeholder = model.config.video_token_id
    for batch in made[:-1]:
        for prompt in batch.prompts:
            row = prompt.inputs["input_ids"][0]
            assert int(torch.nonzero(row == placeholder)[-1]) == batch.end - 1


def test_otherwise_those_of_one_kind_go_together(asked):
    model, given = asked
    made = batches(model, given, 4, sharing=False)
    assert sorted(len(batch.pairs) for batch in made) == [1, 2, 4]
    assert all(batch.end is None and batch.video is None for batch in made)
    lengths = [prompt.length for batch in made[:2] for prompt in batch.prompts]
    assert lengths == sorted(lengths)
    assert sorted(ids(made[-1])) == ["0/2", "1/2"]
