"""vLLM with framefusion against transformers, which is given the engine's masks."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from framefusion.asking.video import read_video
from framefusion.assets import BUNDLED, DEMO_QUESTIONS, DEMO_VIDEO
from framefusion.vllm.selection import retained_count
from framefusion.vllm.settings import ServingSettings
from tests.vllm import nemotron
from tests.vllm.checkpoints import save_qwen3
from tests.vllm.engine import serving, with_metadata
from tests.vllm.oracle import Reference

QWEN = BUNDLED["bundled-qwen"]
VIDEO, IMAGE = "<|vision_start|><|video_pad|><|vision_end|>", "<|vision_start|><|image_pad|><|vision_end|>"
QUESTION = "what colour is the star?"


def prompt_of(parts: str, question: str = QUESTION) -> str:
    return f"<|im_start|>user {parts} {question}<|im_end|><|im_start|>assistant"


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(QWEN)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return read_video(DEMO_VIDEO, 32).frames


@pytest.fixture(scope="module")
def picture(frames: np.ndarray) -> Image.Image:
    return Image.fromarray(frames[5])


def mixtures(frames: np.ndarray, picture: Image.Image) -> list[tuple[str, list[Any], list[Any]]]:
    """Text with placeholders, videos and images: alone, several, in every order, and none."""
    one, other, short = with_metadata(frames[:16]), with_metadata(frames[16:28]), with_metadata(frames[:2])
    return [
        (prompt_of(VIDEO), [one], []),
        (prompt_of(VIDEO + VIDEO), [one, other], []),
        (prompt_of(VIDEO + IMAGE), [one], [picture]),
        (prompt_of(IMAGE + VIDEO + IMAGE), [other], [picture, picture]),
        (prompt_of(VIDEO + IMAGE + VIDEO), [short, one], [picture]),
        (prompt_of(IMAGE), [], [picture]),
        (prompt_of(""), [], []),
    ]


def asked(text: str, videos: list[Any], images: list[Any]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    if videos:
        data["video"] = list(videos)
    if images:
        data["image"] = list(images)
    return {"prompt": text, "multi_modal_data": data} if data else {"prompt": text}


def test_positions_and_tokens_are_those_of_transformers(reference, frames, picture) -> None:
    cases = mixtures(frames, picture)
    with serving(QWEN, 0.8, {}) as served:
        for text, videos, images in cases:
            prompt = asked(text, videos, images)
            got = served.prompt_positions(prompt)
            masks = list(served.masks)
            inputs = reference.inputs(text, videos, images)
            whole = reference.positions(inputs)
            keep = reference.kept(inputs, masks)
            assert torch.equal(got, whole[:, keep]), text
            for mask, (shown, _) in zip(masks, videos, strict=True):
                assert int(mask.sum()) == retained_count(64, len(shown) // 2, 0.8, ServingSettings())
            (tokens,) = served.tokens([prompt])
            assert tokens == reference.tokens(inputs, masks, whole, 8), text
        together = served.tokens([asked(*case) for case in cases])
        alone = [served.tokens([asked(*case)])[0] for case in cases]
    assert together == alone


def test_a_long_video_keeps_the_positions_of_the_whole_one_in_bfloat16(reference, frames) -> None:
    # More positions than bfloat16 can count, and than the frames are wide.
    long = with_metadata(np.concatenate([frames, frames[::-1]])[:48], fps=0.16)
    prompt = asked(prompt_of(VIDEO + VIDEO), [long, with_metadata(frames[:4])], [])
    with serving(QWEN, dtype="bfloat16") as served:
        whole = served.prompt_positions(prompt)
    assert whole.max() > 280
    with serving(QWEN, 0.7, {}, dtype="bfloat16") as served:
        got = served.prompt_positions(prompt)
        masks = list(served.masks)
    keep = reference.kept(reference.inputs(prompt["prompt"], prompt["multi_modal_data"]["video"]), masks)
    assert torch.equal(got, whole[:, keep])


def test_prefix_and_encoder_caches_and_small_windows_change_nothing(frames, picture) -> None:
    cases = mixtures(frames, picture)
    prompts = [asked(*case) for case in cases] + [
        asked(prompt_of(VIDEO, "which way does the red circle move?"), cases[0][1], []),
        asked(prompt_of(VIDEO + IMAGE, "in which scene is the cross?"), cases[2][1], cases[2][2]),
    ]
    with serving(QWEN, 0.8, {}) as served:
        expected = [served.tokens([prompt])[0] for prompt in prompts]
    with serving(QWEN, 0.8, {}, enable_prefix_caching=True) as served:
        for prompt, tokens in zip(prompts, expected, strict=True):
            assert served.tokens([prompt]) == [tokens]
        again = served.answer(prompts)
        assert [list(output.outputs[0].token_ids) for output in again] == expected
        assert max(output.num_cached_tokens for output in again) > 100
    for window in (48, 100):
        with serving(QWEN, 0.8, {}, max_num_batched_tokens=window, max_num_seqs=4) as served:
            assert [served.tokens([prompt])[0] for prompt in prompts] == expected
            assert len(served.positions) > 8
            assert served.tokens(prompts) == expected


COSINES = {"segmentation": "frame-similarity", "budget_rule": "uniform", "gamma": None, "later_frames": 1.0}
"""Of the former defaults, with which a fifth of the tokens answers everything."""


def test_the_bundled_checkpoint_answers_with_all_tokens_and_with_some() -> None:
    rows = json.loads(DEMO_QUESTIONS.read_text(encoding="utf-8"))
    shown = read_video(DEMO_VIDEO, 32)
    about = {
        "fps": shown.source_fps,
        "total_num_frames": shown.total_frames,
        "frames_indices": shown.indices.tolist(),
        "duration": shown.duration,
        "do_sample_frames": False,
    }
    prompts = [asked(prompt_of(VIDEO, row["question"]), [(shown.frames, about)], []) for row in rows]
    for rate, settings in ((None, None), (0.8, COSINES), (0.6, {})):
        with serving(QWEN, rate, settings) as served:
            texts = [output.outputs[0].text.strip() for output in served.answer(prompts, beyond_the_end=False)]
        assert texts == [row["answer"] for row in rows], rate


@pytest.mark.parametrize(
    "settings",
    [
        {"segmentation": "dp", "budget_rule": "joint"},
        {"segmentation": "frames", "relevance": "dissimilarity", "relevance_exponent": 1.0, "selector": "topk"},
        {"selector": "divprune", "segmentation": "single", "minimum_per_frame": 3},
        {"keep_first_frame": True},
    ],
)
def test_settings_reach_the_selection(frames, settings) -> None:
    videos = [with_metadata(frames[:16])]
    with serving(QWEN, 0.9, settings) as served:
        served.answer([asked(prompt_of(VIDEO), videos, [])], 1)
        (mask,) = served.masks
    by_frame = mask.reshape(8, 64).sum(1)
    parsed = ServingSettings.parse(settings)[0]
    assert int(mask.sum()) == retained_count(64, 8, 0.9, parsed)
    assert by_frame.min() >= parsed.minimum_per_frame
    assert (by_frame[0] == 64) == parsed.keep_first_frame


def test_two_engines_of_one_process_keep_their_own_settings(frames) -> None:
    """A number with settings, not the process, says which rule selects."""
    prompt = asked(prompt_of(VIDEO), [with_metadata(frames[:16])], [])
    with serving(QWEN, 0.8, {}) as ours, serving(QWEN, 0.5, {"segmentation": "single"}) as others:
        ours.answer([prompt], 1)
        others.answer([prompt], 1)
        ours.answer([prompt], 1)
        # The latest of both has the hook that writes masks down.
        assert len(others.masks) >= 1
        assert int(others.masks[0].sum()) == retained_count(64, 8, 0.5, ServingSettings())


@pytest.fixture(scope="module", params=["qwen3_vl", "qwen3_vl_moe"])
def qwen3(request, tmp_path_factory):
    return save_qwen3(tmp_path_factory.mktemp("qwen3"), request.param)


def small(frames: np.ndarray, count: int) -> tuple[np.ndarray, dict[str, Any]]:
    return with_metadata(frames[:count, ::4, ::4][:, :42, :56])


def test_a_rate_of_zero_changes_nothing(qwen3, frames) -> None:
    for model, videos in ((QWEN, [with_metadata(frames[:16])]), (qwen3, [small(frames, 8)])):
        prompt = asked(prompt_of(VIDEO + IMAGE), videos, [Image.fromarray(frames[3, :56, :56])])
        with serving(model) as served:
            expected = served.prompt_positions(prompt), served.tokens([prompt])
        with serving(model, 0.0, {}) as served:
            assert torch.equal(served.prompt_positions(prompt), expected[0])
            assert served.tokens([prompt]) == expected[1]
            assert not served.masks


def test_qwen3_vl_keeps_the_positions_of_the_whole_prompt(qwen3, frames) -> None:
    """Against the engine without pruning, and tokens against transformers: time stamps and deepstack included."""
    picture = Image.fromarray(frames[3, :56, :56])
    cases = [
        (prompt_of(VIDEO, "what colour is it?"), [small(frames, 12)], []),
        (prompt_of(VIDEO + VIDEO, "what is it?"), [small(frames, 8), small(frames, 6)], []),
        (prompt_of(VIDEO + IMAGE, "what is it?"), [small(frames, 8)], [picture]),
        (prompt_of(IMAGE + VIDEO, "what is it?"), [small(frames, 32)], [picture]),
    ]
    with serving(qwen3) as served:
        whole = [served.prompt_positions(asked(*case)) for case in cases]
    reference = Reference(qwen3)
    with serving(qwen3, 0.7, {}) as served:
        for (text, videos, images), positions in zip(cases, whole, strict=True):
            prompt, inputs = asked(text, videos, images), reference.inputs(text, videos, images)
            got = served.prompt_positions(prompt)
            masks = list(served.masks)
            assert torch.equal(got, positions[:, reference.kept(inputs, masks)]), text
            assert torch.equal(positions, reference.positions(inputs)), text
            (tokens,) = served.tokens([prompt])
            assert tokens == reference.tokens(inputs, masks, positions, 8), text
        expected = [served.tokens([asked(*case)])[0] for case in cases]
    with serving(qwen3, 0.7, {}, max_num_batched_tokens=32, max_num_seqs=4, enable_prefix_caching=True) as served:
        assert [served.tokens([asked(*case)])[0] for case in cases] == expected
        assert served.tokens([asked(*case) for case in cases]) == expected


@pytest.mark.parametrize("family", ["qwen3_5", "qwen3_5_moe"])
def test_qwen3_5_keeps_positions_and_what_its_states_take_in(family, frames, tmp_path) -> None:
    """The engine's linear attention knows bfloat16 alone, so that log-probabilities stand in for tokens."""
    model = save_qwen3(tmp_path, family)
    picture = Image.fromarray(frames[3, :56, :56])
    cases = [
        (prompt_of(VIDEO, "what colour is it?"), [small(frames, 12)], []),
        (prompt_of(VIDEO + IMAGE + VIDEO, "what is it?"), [small(frames, 8), small(frames, 6)], [picture]),
    ]
    options = {"dtype": "bfloat16", "max_logprobs": -1}
    reference = Reference(model)
    with serving(model, **options) as served:
        whole = [served.prompt_positions(asked(*case)) for case in cases]
    with serving(model, 0.7, {}, **options) as served:
        for case, positions in zip(cases, whole, strict=True):
            inputs = reference.inputs(*case)
            got = served.prompt_positions(asked(*case))
            masks = list(served.masks)
            assert torch.equal(got, positions[:, reference.kept(inputs, masks)])
            assert torch.equal(positions, reference.positions(inputs))
            engine = served.first_logprobs(asked(*case))
            ours = reference.first_logprobs(inputs, masks, positions)
            others = reference.first_logprobs(inputs, [mask.roll(1) for mask in masks], positions)
            # Rounding may send a token to other experts.
            assert (engine - ours).abs().mean() < 0.4 * (engine - others).abs().mean()
        answers = served.tokens([asked(*case) for case in cases])
        assert answers == [served.tokens([asked(*case)])[0] for case in cases]
    with serving(model, 0.7, {}, max_num_batched_tokens=32, max_num_seqs=4, **options) as served:
        for case, positions in zip(cases, whole, strict=True):
            got = served.prompt_positions(asked(*case))
            assert len(served.positions) > 1
            assert torch.equal(got, positions[:, reference.kept(reference.inputs(*case), served.masks)])


def test_nemotron_gives_the_decoder_the_whole_prompt_without_the_dropped_tokens(frames, tmp_path) -> None:
    """Against the engine without pruning, which draws the same weights; text between frames included."""
    model = nemotron.save(tmp_path)
    shown = [with_metadata(np.ascontiguousarray(frames[start : start + 8, :64, :64])) for start in (0, 20)]
    prompts = [asked("user <video> what is it?", shown[:1], []), asked("user <video> and <video> is it?", shown, [])]
    options = {"dtype": "bfloat16", "load_format": "dummy", "limit_mm_per_prompt": {"video": 2, "image": 1}}
    whole = []
    with serving(model, **options) as served:
        for prompt in prompts:
            (output,) = served.answer([prompt], 1)
            is_video = torch.tensor(output.prompt_token_ids) == nemotron.VIDEO
            whole.append((served.embeddings[0][: len(is_video)], is_video))
    with serving(model, 0.7, {}, **options) as served:
        for prompt, (embeddings, is_video) in zip(prompts, whole, strict=True):
            (output,) = served.answer([prompt], 1)
            for mask in served.masks:
                assert int(mask.sum()) == retained_count(4, 8, 0.7, ServingSettings())
                assert mask.reshape(8, 4).any(1).all()
            kept = torch.ones_like(is_video)
            kept[is_video] = torch.cat(served.masks)
            assert len(output.prompt_token_ids) == int(kept.sum())
            assert torch.equal(served.embeddings[0][: int(kept.sum())], embeddings[kept])
        answers = served.tokens(prompts)
        assert answers == [served.tokens([prompt])[0] for prompt in prompts]
