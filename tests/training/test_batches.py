import numpy as np
import pytest
import torch
from batches import IGNORE, NO_COLOR, BatchPlan, dense_labels, keep_tokens, make_batch, plan
from checkpoint import build_tokenizer
from packing import PromptIds
from scenes import render, sample_video

from framefusion.needle.objects import COLOR_NAMES, KINDS


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.mark.parametrize(
    "spec", [BatchPlan(3, 1, None, 0, 0.5, 0.0, text=False), BatchPlan(2, 8, None, 4, 0.2, 0.3, keep=0.25)]
)
def test_a_step_s_batch_is_reproducible(tokenizer, spec):
    first, again = (make_batch(5, spec, PromptIds(tokenizer), 0, seed=1) for _ in range(2))
    other = make_batch(6, spec, PromptIds(tokenizer), 0, seed=1)
    assert torch.equal(first.pixels, again.pixels)
    assert torch.equal(first.kept, again.kept)
    assert torch.equal(first.vision_labels.kind, again.vision_labels.kind)
    assert not torch.equal(first.pixels, other.pixels)
    if spec.text:
        assert torch.equal(first.text.ids, again.text.ids)
        assert first.kept.shape == (2, 128)
        assert first.labels.ordinal.shape == (2, 128)


def test_dense_labels_name_the_objects():
    video = render(sample_video(np.random.default_rng(4), frames=8, scenes=4))
    labels = dense_labels([video])
    tokens = video.coverage.reshape(-1)
    scene = np.repeat(video.scene_of_frame, 64)
    for token in range(len(tokens)):
        own = video.spec.scenes[scene[token]].obj
        color = labels.color[0, token].item()
        if tokens[token] > 0.25:
            assert color == COLOR_NAMES.index(own.color)
            assert labels.kind[0, token].item() == KINDS.index(own.kind)
        elif tokens[token] > 0.03:
            assert color == IGNORE
        else:
            assert color == NO_COLOR
        seen = (tokens[: token + 1][scene[: token + 1] == scene[token]] > 0.25).any()
        expected = COLOR_NAMES.index(own.color) if seen else IGNORE
        assert labels.scene_color[0, token].item() == expected
        if seen:
            assert labels.ordinal[0, token].item() == scene[token]
            before = scene[token] - 1
            previous = COLOR_NAMES.index(video.spec.scenes[before].obj.color) if before >= 0 else NO_COLOR
            assert labels.previous_color[0, token].item() == previous


def test_labels_of_kept_tokens_need_a_kept_object_token():
    video = render(sample_video(np.random.default_rng(4), frames=4, scenes=2, jitter=0.0))
    background = np.flatnonzero(video.coverage.reshape(-1) == 0)[None]
    labels = dense_labels([video], background)
    assert (labels.scene_kind == IGNORE).all()
    assert (labels.kind == len(KINDS)).all()


def test_keep_tokens_draws_the_asked_share_in_order():
    coverage = render(sample_video(np.random.default_rng(4))).coverage
    kept = keep_tokens(np.random.default_rng(0), coverage, 0.2)
    assert len(kept) == round(0.2 * coverage.size)
    assert (np.diff(kept) > 0).all()
    assert np.array_equal(keep_tokens(np.random.default_rng(0), coverage, 1.0), np.arange(coverage.size))


def test_curriculum_starts_with_frames_and_ends_with_eight_frame_videos():
    plans = [plan(step, 100, 200, 1000, 0) for step in range(1000)]
    assert not any(item.text for item in plans[:100])
    assert not any(item.pairs == 24 for item in plans[:800])
    assert all(item.text and not item.vision and item.pairs == 24 for item in plans[-200:])
    assert {item.frames for item in plans[-200:]} >= {4, 8}
    assert plans == [plan(step, 100, 200, 1000, 0) for step in range(1000)]
