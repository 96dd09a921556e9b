"""Questions on one beginning, held against each asked as a whole."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from framefusion.asking import together
from framefusion.asking.encodings import Prompt, collate, prompts
from framefusion.asking.loading import load
from framefusion.asking.together import Together, beginning, fitting, shares
from framefusion.asking.video import Video
from framefusion.hf import attach
from framefusion.reduction.settings import FrameFusion
from tests import family_checkpoints
from tests.evaluation.fake import ASKED, Noise
from tests.hf.models import apart

ATTENTION = FrameFusion(keep={2: 0.3}, relevance="last", selector="topk", dropped="drop")
TEXTS = ["what?", "which one is it", "where"]
FRAMES = 6
FREE = family_checkpoints.FREE
TOLERANCE = 2e-4


def said(model, arguments, tokens=3, first_word=0):
    """Logits ``(B, tokens, V)`` of words from a first one on, and the words."""
    with torch.inference_mode():
        output = model.generate(
            **arguments,
            max_new_tokens=tokens,
            do_sample=False,
            suppress_tokens=list(range(first_word)),
            output_logits=True,
            return_dict_in_generate=True,
        )
    return torch.stack(output.logits, 1), output.sequences[:, arguments["input_ids"].shape[1] :]


def video(frames=FRAMES):
    pictures = np.random.default_rng(0).integers(0, 255, (frames, 32, 32, 3), dtype=np.uint8)
    at = np.arange(frames)
    return Video(pictures, at / 2, at, frames / 2, 2.0, frames, Path("noise"))


@pytest.mark.parametrize("name", apart(family_checkpoints.PARTS))
def test_every_family_answers_as_afresh(name, tmp_path):
    """One by one afresh, as one batch afresh, and on the beginning; with a stage that goes by the question."""
    loaded = load(family_checkpoints.save(name, tmp_path), device="cpu")
    model, made = loaded.model, prompts(loaded.model, loaded.processor, video(), TEXTS)
    end = beginning(model, made)
    assert end is not None
    for settings in (FrameFusion(), ATTENTION):
        with attach(model, settings) as run:
            assert shares(model, run.settings)
            alone = [(*said(model, collate([prompt], 0), first_word=FREE), run.summary()) for prompt in made]
            batched, _ = said(model, collate(made, 0), 1)
            sharing = Together(model, run, 0)
            for positions in fitting(model, made, 3):
                batch = [made[position] for position in positions]
                logits, words = said(model, sharing.arguments(batch, "noise", end), first_word=FREE)
                summary = run.summary()
                for row, position in enumerate(positions):
                    expected, spoken, _ = alone[position]
                    assert (logits[row] - expected[0]).abs().max() < TOLERANCE
                    assert (batched[position] - expected[0, :1]).abs().max() < TOLERANCE
                    assert torch.equal(words[row], spoken[0])
                assert summary.kv_bytes_after == sum(alone[position][2].kv_bytes_after for position in positions)
                present = zip(*(alone[position][2].tokens_per_layer for position in positions), strict=True)
                assert summary.tokens_per_layer == [sum(layer) for layer in present]


@pytest.fixture(scope="module")
def loaded(models):
    return models["qwen2-vl"]


@pytest.fixture(scope="module")
def made(loaded):
    return prompts(loaded.model, loaded.processor, Noise().video("1", 6, 6), [text for text, _ in ASKED])


def test_a_beginning_is_prefilled_once_a_video(loaded, made, monkeypatch):
    model, calls, end = loaded.model, [], beginning(loaded.model, made)
    with attach(model) as run:
        extend = run.extend
        monkeypatch.setattr(run, "extend", lambda *a, **k: calls.append(k["columns"]) or extend(*a, **k))
        sharing = Together(model, run, 0)
        for prompt in made:
            sharing.arguments([prompt], "1", end)
        assert calls == [(0, end)]
        # another video of equal size, and another beginning of the same video
        other = prompts(model, loaded.processor, Noise().video("2", 6, 6), [ASKED[0][0]])
        expected, _ = said(model, collate(other, 0))
        logits, _ = said(model, sharing.arguments(other, "2", end))
        assert (logits - expected).abs().max() < TOLERANCE
        assert len(calls) == 2
        changed = made[0].inputs["input_ids"].clone()
        changed[0, 0] += 1
        sharing.arguments([Prompt({**made[0].inputs, "input_ids": changed}, made[0].encoded)], "2", end)
        assert len(calls) == 3
        # as a whole
        assert "past_key_values" not in sharing.arguments(made)
        assert len(calls) == 3


def test_what_comes_ahead_of_the_video_counts(loaded, made):
    """Penalties go by all ids of the prompt."""
    end = beginning(loaded.model, made)
    with attach(loaded.model) as run:
        arguments = Together(loaded.model, run, 0).arguments(made[:1], "1", end)
    assert torch.equal(arguments["input_ids"], made[0].inputs["input_ids"])
    assert torch.equal(arguments["attention_mask"], made[0].inputs["attention_mask"])
    assert not arguments["mm_token_type_ids"].any()
    assert not {"pixel_values_videos", "video_grid_thw", "mm_encoder_outputs"} & set(arguments)


def test_a_question_before_the_first_layer_shares_nothing(loaded):
    similar = FrameFusion(keep={0: 0.5}, relevance="similarity")
    assert not shares(loaded.model, similar)
    assert shares(loaded.model, replace(similar, relevance="none"))
    assert not shares(loaded.model, FrameFusion(keep={2: 0.5}, relevance="all-viewers"))
    assert not shares(loaded.model, FrameFusion(keep=[0.5, 0.2]))


def test_a_cache_of_another_kind_shares_nothing(loaded, monkeypatch):
    monkeypatch.setattr(loaded.model.generation_config, "cache_implementation", "static")
    assert not shares(loaded.model, FrameFusion())


def test_prompts_without_a_common_beginning(loaded, made):
    model, end = loaded.model, beginning(loaded.model, made)

    def cut(prompt, first, last):
        shape = prompt.inputs["input_ids"].shape
        by_token = {name: value[:, first:last] for name, value in prompt.inputs.items() if value.shape == shape}
        return Prompt({**prompt.inputs, **by_token}, prompt.encoded)

    assert beginning(model, [made[0], cut(made[1], 1, None)]) is None
    assert beginning(model, [made[0], cut(made[1], 0, end + 1)]) is None  # one token behind it is no prefill
    assert beginning(model, [made[0], cut(made[1], 0, end + 2)]) == end
    words = {"input_ids": torch.tensor([[9, 10, 11]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    assert beginning(model, [Prompt(words, {})]) is None


def test_batches_are_of_one_length_where_padding_would_count(loaded, monkeypatch):
    lengths = [5, 3, 5, 4, 3]
    made = [Prompt({"input_ids": torch.zeros(1, length)}, {}) for length in lengths]
    assert fitting(loaded.model, made, 2) == [[1, 4], [3, 0], [2]]
    monkeypatch.setattr(together, "takes_padding", lambda model: False)
    assert fitting(loaded.model, made, 2) == [[1, 4], [3], [0, 2]]
