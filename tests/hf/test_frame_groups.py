"""Videos encoded in groups of frames: the features and answers are those of whole videos."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

import framefusion
from framefusion import FrameFusion
from framefusion.errors import StateError
from framefusion.hf import UnsupportedModelError
from framefusion.hf.families import find
from framefusion.hf.frame_groups import encode_in_groups
from framefusion.reduction.changes import Changed
from tests.hf import models
from tests.hf.case import Case

APART = [
    "llava_onevision", "llava_next_video", "qwen2_vl", "qwen2_5_vl", "qwen2_5_omni", "qwen3_omni", "qwen3_vl",
    "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "glm4v", "glm46v", "glm4v_moe", "video_llama3",
    "exaone4_5", "lfm3_vl",
]  # fmt: skip


def shown(case: Case) -> dict[str, Tensor]:
    """Two videos in a prompt, of different lengths where the model takes that."""
    h, w = case.frame
    second = 7 if case.fixed_grid is not None else 4
    return case.inputs([(2, (7, h, w), 3, (second, h, w), 4)])


def flat(value: Any) -> list[Tensor]:
    """The tensors in what an encoder returns."""
    if isinstance(value, Tensor):
        return [value]
    return [] if value is None else [tensor for item in value for tensor in flat(item)]


def encoded(case: Case, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """What decoders read of an encoder's output."""
    encode = case.model.base_model.get_video_features
    wanted = {name: inputs[name] for name in inspect.signature(encode).parameters if name in inputs}
    with torch.no_grad():
        output = encode(**wanted, return_dict=True)
    return {name: value for name, value in output.items() if name not in ("last_hidden_state", "hidden_states")}


@pytest.mark.parametrize("name", APART)
def test_features_are_those_of_whole_videos(name: str) -> None:
    case = models.build(name)
    inputs = shown(case)
    whole = encoded(case, inputs)
    for frames in (1, 3, 100):
        undo = encode_in_groups(case.model, frames)
        parts = encoded(case, inputs)
        undo()
        assert parts.keys() == whole.keys()
        for key, value in whole.items():
            assert type(parts[key]) is type(value)
            for mine, theirs in zip(flat(parts[key]), flat(value), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    assert "get_video_features" not in vars(case.model.base_model)


@pytest.mark.parametrize("name", APART)
def test_no_call_of_the_tower_sees_more_frames(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = models.build(name)
    inputs, own, seen = shown(case), case.model.base_model, []
    original = own.get_video_features

    @functools.wraps(original)
    def noted(pixel_values_videos: Tensor, **more: Any) -> Any:
        grid = more.get("video_grid_thw")
        seen.append(pixel_values_videos.shape[1] if grid is None else int(grid[:, 0].sum()))
        return original(pixel_values_videos, **more)

    monkeypatch.setattr(own, "get_video_features", noted)
    encode_in_groups(case.model, 2)
    encoded(case, inputs)
    patch = getattr(getattr(own.config, "vision_config", own.config), "temporal_patch_size", 1)
    assert max(seen) <= max(1, -(-2 // patch))
    assert len(seen) > 1


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl", "qwen3_vl", "exaone4_5", "lfm3_vl"])
def test_answers_with_a_reduction_are_the_same(name: str) -> None:
    case = models.build(name)
    inputs, answers = shown(case), []
    for grouped in (False, True):
        if grouped:
            encode_in_groups(case.model, 2)
        with framefusion.attach(case.model, FrameFusion(keep={1: 0.5})) as run, torch.no_grad():
            tokens = case.model.generate(**inputs, max_new_tokens=5, do_sample=False)
            answers.append((tokens.tolist(), run.summary().visual_tokens_after))
    assert answers[0] == answers[1]


def test_every_family_says_whether_it_can() -> None:
    """The families that say so are those that are tested here."""
    said = {name for name in models.BUILDERS if find(models.build(name).model.base_model).frames_apart}
    assert said == set(APART)


def test_groups_and_a_tower_that_compares_frames_exclude_each_other() -> None:
    case = models.build("qwen2_vl")
    settings = FrameFusion(keep={1: 0.5}, tower=Changed(std=(0.5,)))
    undo = encode_in_groups(case.model, 2)
    with pytest.raises(UnsupportedModelError, match="leave one of the two out"):
        framefusion.attach(case.model, settings)
    undo()
    with (
        framefusion.attach(case.model, settings),
        pytest.raises(StateError, match="leave one of the two out"),
    ):
        encode_in_groups(case.model, 2)


def test_what_cannot_be_is_refused() -> None:
    case = models.build("gemma3")
    with pytest.raises(UnsupportedModelError, match=r"cannot be encoded in groups of frames; families .*LLaVA-One"):
        encode_in_groups(case.model, 4)
    case = models.build("qwen2_vl")
    for frames, error in ((0, ValueError), (2.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="frames must be"):
            encode_in_groups(case.model, frames)
