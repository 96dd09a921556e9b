"""The shipped checkpoint and videos, used the way any other checkpoint and video would be."""

import json
import re
import socket

import av
import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaOnevisionForConditionalGeneration,
    Qwen2_5_VLForConditionalGeneration,
)

from framefusion.asking.loading import load
from framefusion.asking.video import read_video
from framefusion.assets import BUNDLED, DEMO_VIDEO, REAL_VIDEO, usual_frames
from framefusion.evaluation import Plan, VideoNeedle, evaluate, needle

TINY_MODEL = BUNDLED["bundled"]
QUESTIONS = json.loads((DEMO_VIDEO.parent / "scenes.json").read_text())


@pytest.fixture(scope="module")
def loaded():
    """Processor and model by the ordinary path, with every connection refused."""

    def refuse(*args, **kwargs):
        raise AssertionError("loading the bundled checkpoint must not use the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        processor = AutoProcessor.from_pretrained(TINY_MODEL)
        model = AutoModelForImageTextToText.from_pretrained(TINY_MODEL)
    return processor, model.eval()


def _decoded(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def _answer(loaded, frames, question):
    processor, model = loaded
    content = [{"type": "video"}, {"type": "text", "text": question}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[prompt], videos=[frames], return_tensors="pt")
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=8)
    new = output[0, inputs["input_ids"].shape[1] :]
    assert new[-1] == model.generation_config.eos_token_id, "the answer does not end by itself"
    return processor.decode(new, skip_special_tokens=True)


def test_checkpoint_is_small_and_of_the_real_class(loaded):
    processor, model = loaded
    assert type(model) is LlavaOnevisionForConditionalGeneration
    assert type(processor).__name__ == "LlavaOnevisionProcessor"
    assert sum(parameter.numel() for parameter in model.parameters()) <= 4_000_000
    files = [path for path in TINY_MODEL.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 20_000_000
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja"}


def test_videos_are_small_and_readable():
    assert DEMO_VIDEO.stat().st_size < 300_000
    assert REAL_VIDEO.stat().st_size < 1_500_000
    assert _decoded(DEMO_VIDEO).shape == (144, 256, 256, 3)
    frames = _decoded(REAL_VIDEO)
    assert frames.shape == (480, 144, 176, 3)
    assert frames.std() > 10


def test_processor_resizes_and_keeps_every_frame(loaded):
    processor, _ = loaded
    prompt = "<|im_start|>user <video> what is large?<|im_end|><|im_start|>assistant"
    for frames, height, width in ((8, 96, 96), (16, 256, 256), (5, 90, 160)):
        video = np.zeros((frames, height, width, 3), dtype=np.uint8)
        inputs = processor(text=[prompt], videos=[video], return_tensors="pt")
        assert inputs["pixel_values_videos"].shape == (1, frames, 3, 96, 96)
        placeholders = (inputs["input_ids"] == processor.video_token_id).sum().item()
        assert placeholders == 64 * frames + 1


def test_eight_frames_make_at_least_400_visual_tokens(loaded):
    _, model = loaded
    pixels = torch.zeros(1, 8, 3, 96, 96)
    with torch.inference_mode():
        features = model.model.get_video_features(pixels, return_dict=True).pooler_output
    assert features.shape == (1, 513, 128)


def test_the_decoder_is_deep_enough_for_stages(loaded):
    _, model = loaded
    assert model.config.text_config.num_hidden_layers == 12


@pytest.mark.parametrize(
    "question",
    [
        "what large object came after the red circle?",
        "What Large Object came after the Red Circle?",
        "WHAT LARGE THING CAME BEFORE THE RED CIRCLE",
        "which way does the red circle move ?!",
    ],
)
def test_case_spaces_and_marks_do_not_matter(loaded, question):
    processor, _ = loaded
    ids = processor.tokenizer.encode(question)
    assert processor.tokenizer.unk_token_id not in ids
    assert ids == processor.tokenizer.encode(re.sub(r"\s+", " ", question.lower()))


def test_demo_questions_are_answered(loaded):
    """The first question of each kind, which the demo asks; of all of them as many as the checkpoint has to."""
    frames = read_video(DEMO_VIDEO, frames=16).frames
    first, right = {}, []
    for pair in QUESTIONS:
        right.append(_answer(loaded, frames, pair["question"]) == pair["answer"])
        first.setdefault(pair["kind"], right[-1])
    assert first == dict.fromkeys(needle.ASKED_KINDS, True)
    assert sum(right) >= 0.9 * len(right)


def test_an_answer_comes_from_the_video(loaded):
    frames = read_video(DEMO_VIDEO, frames=16).frames
    question = "what large object came after the red circle?"
    assert _answer(loaded, frames, question) == "red diamond"
    swapped = np.concatenate([frames[:8], frames[12:], frames[8:12]])
    assert _answer(loaded, swapped, question) == "yellow eight"


def test_an_unknown_word_does_no_harm(loaded):
    frames = read_video(DEMO_VIDEO, frames=16).frames
    assert _answer(loaded, frames, "please what large object came after the red circle?") == "red diamond"


def test_the_second_family_is_small_and_of_the_real_class():
    loaded = load("bundled-qwen")
    assert type(loaded.model) is Qwen2_5_VLForConditionalGeneration
    assert type(loaded.processor).__name__ == "Qwen2_5_VLProcessor"
    assert loaded.name == "bundled-qwen"
    assert loaded.model.config.text_config.num_hidden_layers == 12
    assert sum(parameter.numel() for parameter in loaded.model.parameters()) <= 4_000_000


@pytest.mark.parametrize("model", list(BUNDLED))
def test_held_out_accuracy_on_a_small_sample(tmp_path, model, pytestconfig):
    videos = 5 if pytestconfig.getoption("--matrix") is None else 12
    plan = Plan(frames=usual_frames(model), methods=["text-only"], timed=0)
    summary = evaluate(VideoNeedle(videos=videos, seed=1), tmp_path, plan, model={"model": model})
    (table,) = summary["frames"]
    assert table["questions"] == 14 * videos
    scores = {row["method"]: row for row in table["methods"]}
    assert scores["full"]["accuracy"]["value"] >= 0.9
    assert min(row["accuracy"]["value"] for row in scores["full"]["by_kind"].values()) >= 0.8
    assert scores["text-only"]["accuracy"]["value"] <= 0.35
    assert set(needle.ASKED_KINDS) == set(scores["full"]["by_kind"])
