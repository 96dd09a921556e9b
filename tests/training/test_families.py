"""What the training computes by hand is what the classes compute from a user's inputs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from model import TOKENS_PER_FRAME
from train_decoder import start_like
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from vision import crowd, to_pixels

from framefusion.asking.ask import model_inputs
from framefusion.asking.video import Video
from framefusion.evaluation.needle.objects import COLOR_NAMES
from framefusion.evaluation.videoneedle import SECONDS

FRAMES = 32
"""So many that neither the slots nor the seconds between them are as many as a frame has rows."""
QUESTION = "which way does the red star move?"


@pytest.fixture(scope="module")
def inputs(family, model):
    """Frames of noise over a video's usual length and a question, processed as for any user."""
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, 96, 96, 3)).astype(np.uint8)
    chosen, fps = np.arange(FRAMES), FRAMES / SECONDS
    video = Video(frames, chosen / fps, chosen, SECONDS, fps, FRAMES, Path("noise"))
    return frames, model_inputs(video, QUESTION, model, family.processor())


@torch.no_grad()
def test_tokens_are_those_of_the_class(family, model, inputs):
    frames, made = inputs
    given = {name: made[name] for name in ("pixel_values_videos", "video_grid_thw") if name in made}
    features = model.model.get_video_features(**given, return_dict=True).pooler_output[0]
    mine = family.encode(model, to_pixels(frames)).flatten(0, 1)
    assert len(mine) == FRAMES // family.frames_per_slot * TOKENS_PER_FRAME
    assert (mine - features[: len(mine)]).abs().max() < 1e-5 * mine.abs().max()


def test_prompts_are_those_of_the_chat_template(family, texts, inputs):
    _, made = inputs
    (ids,) = made["input_ids"].tolist()
    opening, question = texts.encode(family.opening), texts.prompt(QUESTION)
    assert ids[: len(opening)] == opening
    assert ids[-len(question) :] == question
    # between them the video and one more token
    assert len(ids) == len(opening) + FRAMES // family.frames_per_slot * TOKENS_PER_FRAME + 1 + len(question)


def test_positions_are_those_of_the_class(family, model, texts, inputs):
    _, made = inputs
    slots, first = FRAMES // family.frames_per_slot, len(texts.encode(family.opening))
    seen, end = family.positions(torch.arange(slots * TOKENS_PER_FRAME)[None], slots, first)
    length = made["input_ids"].shape[1]
    if hasattr(model.model, "get_rope_index"):
        names = ("input_ids", "mm_token_type_ids", "video_grid_thw", "second_per_grid_ts")
        theirs, _ = model.model.get_rope_index(**{name: made[name] for name in names})
    else:
        theirs = torch.arange(length)[None]
    behind = first + slots * TOKENS_PER_FRAME
    assert torch.equal(seen, theirs[..., first:behind].view_as(seen))
    expected = torch.arange(end, end + length - behind)
    assert (theirs[..., behind:] == expected).all()
    assert (theirs[..., :first] == torch.arange(first)).all()


@torch.no_grad()
def test_the_tower_starts_by_looking_at_four_neighbours(family, model):
    """Whatever is seen, the heads of the first layer look at four patches that are not the same."""
    rows = []

    def record(module, query, key, value, attention_mask, scaling=None, **_):
        paid = ((query * scaling) @ key.transpose(-1, -2)).softmax(-1)
        rows.append(paid[0])
        return (paid @ value).transpose(1, 2), None

    ALL_ATTENTION_FUNCTIONS.register("record", record)
    before = family.tower(model).config._attn_implementation
    family.set_attention(model, "record")
    seen = np.random.default_rng(1).integers(0, 256, (2, family.frames_per_slot, 96, 96, 3)).astype(np.uint8)
    for frames in seen:
        family.encode(model, to_pixels(frames))
    family.set_attention(model, before)
    first, again = rows[0].argmax(-1), rows[3].argmax(-1)
    assert first.shape == (4, 256)
    assert (first == again).float().mean() > 0.9
    for head in range(4):
        others = [first[other] for other in range(head)]
        assert all((first[head] != other).float().mean() > 0.8 for other in others)


def test_a_decoder_can_begin_as_another_family_s(family, model):
    from families import FAMILIES

    llava = FAMILIES["llava"]
    torch.manual_seed(1)
    other = llava.build(llava.tokenizer())
    mine = family.build(family.tokenizer())
    start_like(mine, family, other.state_dict(), llava)
    row = {f: f.tokenizer().convert_tokens_to_ids("purple") for f in (family, llava)}
    assert torch.equal(mine.lm_head.weight[row[family]], other.lm_head.weight[row[llava]])
    for left, right in zip(
        mine.model.language_model.layers.parameters(), other.model.language_model.layers.parameters(), strict=True
    ):
        assert torch.equal(left, right)


def test_a_crowded_slot_names_what_is_under_its_tokens(family, clips):
    """The footage is dim, so bright pixels are things."""
    for seed in range(20):
        frames, labels = crowd(np.random.default_rng(seed), clips, family.frames_per_slot)
        assert frames.shape == (family.frames_per_slot, 96, 96, 3)
        bright = (frames.max(axis=-1) > 150).reshape(-1, 8, 12, 8, 12).mean(axis=(2, 4)).reshape(len(frames), -1)
        color = labels["color"]
        assert color.shape == (TOKENS_PER_FRAME,)
        # in every frame of the slot nothing, in one of them something
        assert (bright[:, color == len(COLOR_NAMES)] < 0.1).all()
        assert (bright[:, (color >= 0) & (color < len(COLOR_NAMES))].max(axis=0) > 0.05).all()
        assert (labels["large"] == 1).any()
