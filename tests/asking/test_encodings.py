"""A video that is encoded once gives the very logits of one that is encoded with every question."""

import pytest
import torch

from framefusion.asking.ask import model_inputs
from framefusion.asking.encodings import collate, prompts
from framefusion.hf import attach
from framefusion.reduction.settings import FrameFusion
from tests import tiny_checkpoints
from tests.evaluation.fake import ASKED, Noise

TEXTS = [text for text, _ in ASKED]
ENCODER = FrameFusion(keep={0: 0.5, 2: 0.2}, relevance="encoder-last", selector="topk")
SETTINGS = (FrameFusion(keep=1.0), FrameFusion(keep=0.3), FrameFusion(cost=0.5), FrameFusion(keep={0: 0.5, 2: 0.2}))


def logits(model, inputs, tokens=4):
    with torch.inference_mode():
        output = model.generate(
            **inputs, max_new_tokens=tokens, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    return torch.stack(output.logits, dim=1)


@pytest.fixture(params=list(tiny_checkpoints.SAVE))
def loaded(models, request):
    return models[request.param]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_same_logits_as_plain_generate(loaded, settings):
    video = Noise().video("1", 6, 6)
    made = prompts(loaded.model, loaded.processor, video, TEXTS)
    assert all(prompt.encoded is made[0].encoded for prompt in made)
    with attach(loaded.model, settings):
        for text, prompt in zip(TEXTS, made, strict=True):
            expected = logits(loaded.model, model_inputs(video, text, loaded.model, loaded.processor))
            for _ in range(2):  # what is kept is not used up
                assert torch.equal(logits(loaded.model, collate([prompt], 0)), expected)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_batch_of_several_videos_gives_what_each_gives_alone(loaded, settings):
    made = []
    for video in ("0", "1"):
        made += prompts(loaded.model, loaded.processor, Noise().video(video, 6, 6), TEXTS)
    assert len({prompt.length for prompt in made}) > 1  # padding is needed
    with attach(loaded.model, settings):
        alone = torch.cat([logits(loaded.model, collate([prompt], 0), tokens=1) for prompt in made])
        together = logits(loaded.model, collate(made, 0), tokens=1)
    assert (alone - together).abs().max() < 1e-4
    assert (alone[0] - alone[len(TEXTS)]).abs().max() > 1e-3  # the videos differ


def test_the_attention_of_the_encoder_travels_along(loaded):
    """Encoded before anything was attached, and in a batch of several videos."""
    made = []
    for video in ("0", "1"):
        shown = Noise().video(video, 6, 6)
        made += [
            (shown, text, prompt)
            for text, prompt in zip(TEXTS, prompts(loaded.model, loaded.processor, shown, TEXTS), strict=True)
        ]
    with attach(loaded.model, ENCODER) as run:
        alone, kept = [], []
        for shown, text, prompt in made:
            expected = logits(loaded.model, model_inputs(shown, text, loaded.model, loaded.processor), tokens=1)
            assert torch.equal(logits(loaded.model, collate([prompt], 0), tokens=1), expected)
            alone.append(expected)
            kept.append(len(run.stages[0].kept[0]))
        together = logits(loaded.model, collate([prompt for _, _, prompt in made], 0), tokens=1)
        assert [len(row) for row in run.stages[0].kept] == kept
    assert (torch.cat(alone) - together).abs().max() < 1e-4


def test_a_video_is_encoded_once(loaded, monkeypatch):
    encoder, calls = loaded.model.base_model.get_video_features, []
    monkeypatch.setattr(
        loaded.model.base_model,
        "get_video_features",
        wrapped(encoder, calls),
    )
    made = prompts(loaded.model, loaded.processor, Noise().video("1", 6, 6), TEXTS)
    logits(loaded.model, collate(made, 0))
    logits(loaded.model, collate(made[:1], 0))
    assert len(calls) == 1


def wrapped(function, calls):
    import functools

    @functools.wraps(function)
    def counted(*args, **kwargs):
        calls.append(1)
        return function(*args, **kwargs)

    return counted


def test_a_family_that_takes_no_encodings_keeps_its_pixels(loaded, monkeypatch):
    video = Noise().video("1", 6, 6)
    expected = logits(loaded.model, collate(prompts(loaded.model, loaded.processor, video, TEXTS[:1]), 0))
    monkeypatch.setattr("framefusion.asking.encodings._encode", lambda model, inputs: {})
    (made,) = prompts(loaded.model, loaded.processor, video, TEXTS[:1])
    assert "pixel_values_videos" in made.inputs
    assert torch.equal(logits(loaded.model, collate([made], 0)), expected)
