"""Asking: prompts of every family, the generation that users get without us, timing and comparison."""

import itertools

import numpy as np
import pytest
import torch

import framefusion.asking.ask as ask_module
from framefusion import assets
from framefusion.asking.ask import INSPECT_PROMPT, AskError, ask, inspect
from framefusion.asking.loading import load
from framefusion.asking.video import Video
from framefusion.hf import UnsupportedModelError
from framefusion.reduction.settings import FrameFusion
from tests import tiny_checkpoints

QUESTION = "what colour is the circle"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: load(save(root / name), device="cpu") for name, save in tiny_checkpoints.SAVE.items()}


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    pictures = np.random.default_rng(0).integers(0, 255, (8, 60, 80, 3), dtype=np.uint8)
    times = np.arange(8) + 0.5
    return Video(pictures, times, np.arange(5, 80, 10), 8.0, 10.0, 80, tmp_path_factory.mktemp("v") / "v.mp4")


def by_hand(loaded, video, question, tokens):
    """The answer as a user of transformers would get it."""
    prompt = loaded.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}],
        add_generation_prompt=True,
        tokenize=False,
    )
    metadata = {"total_num_frames": 80, "fps": 10.0, "frames_indices": video.indices.tolist()}
    inputs = loaded.processor(
        text=prompt,
        videos=[video.frames],
        do_sample_frames=False,
        video_metadata=[metadata],
        return_tensors="pt",
    )
    output = loaded.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
    new = output[0, inputs["input_ids"].shape[1] :]
    return loaded.processor.decode(new, skip_special_tokens=True).strip(), len(new)


@pytest.mark.parametrize("family", list(tiny_checkpoints.SAVE))
def test_all_tokens_give_the_answer_of_plain_generate(models, video, family):
    loaded = models[family]
    expected, new_tokens = by_hand(loaded, video, QUESTION, 6)
    common = {"model": loaded.model, "processor": loaded.processor, "max_new_tokens": 6}
    answer = ask(video, QUESTION, settings=FrameFusion(keep=1.0), **common)
    assert (answer.text, answer.new_tokens) == (expected, new_tokens)
    compared = ask(video, QUESTION, settings=FrameFusion(keep=0.25), compare=True, **common)
    assert (compared.full.text, compared.full.new_tokens) == (expected, new_tokens)


@pytest.mark.parametrize("family", list(tiny_checkpoints.SAVE))
def test_what_was_kept_is_told(models, video, family):
    loaded = models[family]
    answer = ask(video, QUESTION, model=loaded.model, processor=loaded.processor, settings=FrameFusion(keep=0.25))
    tokens = len(answer.layout.columns)
    assert tokens == {"llava-onevision": 8 * 16, "qwen2-vl": 4 * 6, "qwen2.5-vl": 4 * 6}[family]
    assert answer.summary.visual_tokens_before == tokens
    assert answer.summary.visual_tokens_after == tokens // 4
    assert answer.question == QUESTION
    assert answer.settings == FrameFusion(keep=0.25)
    assert answer.full is None
    assert answer.video is video
    assert len(answer.stages) == 1
    assert len(answer.segments) == tokens
    assert 0 < answer.seconds_to_first_token <= answer.seconds_total
    assert "not warmed up" in answer.timing


def test_times_are_of_every_part_and_add_up(models, video):
    """What was decoded before has the time that the caller tells, or none."""
    loaded = models["qwen2.5-vl"]
    common = {"model": loaded.model, "processor": loaded.processor, "max_new_tokens": 3}
    answer = ask(video, QUESTION, compare=True, **common)
    for times in (answer.times, answer.full.times):
        assert times.decode is None
        assert list(times.parts) == ["processor", "tower", "projector", "prefill", "other"]
        assert min(times.parts.values()) > 0
    one = ask(video, QUESTION, decode_seconds=1.5, **common)
    assert one.times.decode == 1.5
    assert one.times.first_token == pytest.approx(sum(one.times.parts.values()))
    assert one.times.first_token == pytest.approx(1.5 + one.times.processor + one.seconds_to_first_token)
    assert one.times.per_token == pytest.approx((one.seconds_total - one.seconds_to_first_token) / (one.new_tokens - 1))
    assert one.summary.times.tower == one.times.tower
    found = inspect(assets.DEMO_VIDEO, model=loaded.model, processor=loaded.processor)
    assert found.times.decode > 0
    assert found.times.per_token is None


def test_frames_are_not_sampled_again_and_their_distance_is_told(models, video):
    loaded = models["qwen2.5-vl"]
    inputs = ask_module.model_inputs(video, QUESTION, loaded.model, loaded.processor)
    assert inputs["video_grid_thw"].tolist() == [[4, 4, 6]]
    # frames are one second apart, and a temporal patch covers two of them
    assert inputs["second_per_grid_ts"].tolist() == [2.0]


def test_model_is_as_before(models, video):
    loaded = models["llava-onevision"]
    before = by_hand(loaded, video, QUESTION, 6)
    ask(video, QUESTION, model=loaded.model, processor=loaded.processor, compare=True, max_new_tokens=2)
    assert by_hand(loaded, video, QUESTION, 6) == before
    assert not loaded.model.training


def test_first_token_is_the_first_new_token(models, video, monkeypatch):
    loaded = models["llava-onevision"]
    ticks = itertools.count()
    monkeypatch.setattr(ask_module.time, "perf_counter", lambda: float(next(ticks)))
    answer = ask(video, QUESTION, model=loaded.model, processor=loaded.processor, max_new_tokens=5)
    # begin 0, (stages read the clock too,) first token, end: nothing is read after the first token but the end
    assert answer.seconds_total == answer.seconds_to_first_token + 1


def test_compare_runs_in_turns_after_a_warm_up(models, video, monkeypatch):
    loaded = models["llava-onevision"]
    order = []
    run = ask_module.generate_timed

    def noted(model, processor, inputs, max_new_tokens):
        reduced = bool(model.get_decoder().layers[1]._forward_pre_hooks)
        order.append(("reduced" if reduced else "full", max_new_tokens))
        return run(model, processor, inputs, max_new_tokens)

    monkeypatch.setattr(ask_module, "generate_timed", noted)
    monkeypatch.setattr(ask_module, "_ENOUGH_SECONDS", 1e9)
    monkeypatch.setattr(ask_module, "_MOST_SECONDS", 1e9)
    steps = []
    answer = ask(
        video,
        QUESTION,
        model=loaded.model,
        processor=loaded.processor,
        max_new_tokens=3,
        compare=True,
        progress=steps.append,
    )
    assert order == [("full", 1), ("reduced", 1)] + [("full", 3), ("reduced", 3)] * 5
    assert "median of 5 runs each in turns, after a warm-up" in answer.timing
    assert steps[:2] == ["Preprocessing", "Warming up"]


@pytest.mark.parametrize(
    ("rounds", "seconds", "another"),
    [
        (1, 0.1, True),
        (4, 0.4, True),
        (5, 0.5, False),
        (1, 2.5, True),
        (2, 14.0, True),
        (3, 2.5, False),
        (1, 16.0, False),
    ],
)
def test_one_slow_round_is_not_the_answer(rounds, seconds, another):
    assert ask_module._another(rounds, seconds) is another


def test_inspect_reduces_with_a_neutral_prompt(models, video, monkeypatch):
    loaded = models["qwen2-vl"]
    prompts = []
    original = loaded.processor.apply_chat_template
    monkeypatch.setattr(
        loaded.processor,
        "apply_chat_template",
        lambda messages, **options: prompts.append(messages) or original(messages, **options),
    )
    found = inspect(video, model=loaded.model, processor=loaded.processor, settings=FrameFusion(keep=0.5))
    assert prompts[0][0]["content"][1]["text"] == INSPECT_PROMPT
    assert found.question is None
    assert found.text == ""
    assert found.summary.visual_tokens_after == 12


def test_default_settings(models, video):
    loaded = models["llava-onevision"]
    answer = ask(video, QUESTION, model=loaded.model, processor=loaded.processor, max_new_tokens=1)
    assert answer.settings == FrameFusion()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": ""}, "question must be a text that is not empty"),
        ({"question": "  \n"}, "question must be a text that is not empty"),
        ({"question": None}, "question must be a text that is not empty"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number, at least 1, got 0"),
        ({"max_new_tokens": 1.5}, "max_new_tokens must be a whole number"),
        ({"settings": FrameFusion(cost=0.01, merge=True)}, "cost=0.01 cannot be reached .* smallest cost"),
        ({"settings": FrameFusion(keep={9: 0.5})}, "keep has a stage before layer 9"),
    ],
)
def test_impossible_questions(models, video, changes, message):
    loaded = models["llava-onevision"]
    call = {"question": QUESTION, "model": loaded.model, "processor": loaded.processor, **changes}
    with pytest.raises(AskError, match=message):
        ask(video, **call)


def test_processor_without_chat_template(models, video, monkeypatch):
    loaded = models["llava-onevision"]
    monkeypatch.setattr(loaded.processor, "chat_template", None)
    with pytest.raises(AskError, match="has no chat template"):
        ask(video, QUESTION, model=loaded.model, processor=loaded.processor)


def test_unsupported_model(models, video):
    with pytest.raises(UnsupportedModelError, match="Supported: LLaVA-OneVision"):
        ask(video, QUESTION, model=torch.nn.Linear(2, 2), processor=models["qwen2-vl"].processor)
