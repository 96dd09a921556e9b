"""The shipped checkpoint and videos, used the way any other checkpoint and video would be."""

import json
import re
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaOnevisionForConditionalGeneration

from framefusion.assets import DEMO_VIDEO, REAL_VIDEO, TINY_MODEL

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "training"))

from evaluation import evaluate_model, held_out_batches  # noqa: E402
from packing import PromptIds  # noqa: E402
from video_files import read_frames, sample_uniformly  # noqa: E402

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
    assert read_frames(DEMO_VIDEO).shape == (192, 256, 256, 3)
    frames = read_frames(REAL_VIDEO)
    assert frames.shape == (480, 144, 176, 3)
    assert frames.std() > 10


def test_processor_resizes_and_keeps_every_frame(loaded):
    processor, _ = loaded
    prompt = "<|im_start|>user <video> what is first?<|im_end|><|im_start|>assistant"
    for frames, height, width in ((8, 64, 64), (8, 256, 256), (5, 90, 160)):
        video = np.zeros((frames, height, width, 3), dtype=np.uint8)
        inputs = processor(text=[prompt], videos=[video], return_tensors="pt")
        assert inputs["pixel_values_videos"].shape == (1, frames, 3, 64, 64)
        placeholders = (inputs["input_ids"] == processor.video_token_id).sum().item()
        assert placeholders == 64 * frames + 1


def test_eight_frames_make_at_least_400_visual_tokens(loaded):
    _, model = loaded
    pixels = torch.zeros(1, 8, 3, 64, 64)
    with torch.inference_mode():
        features = model.model.get_video_features(pixels, return_dict=True).pooler_output
    assert features.shape == (1, 513, 128)


@pytest.mark.parametrize(
    "question",
    [
        "what came after the red circle?",
        "What came after the Red Circle?",
        "WHAT CAME AFTER THE RED CIRCLE",
        "what came after the red circle ?!",
        "Which object appears directly before the yellow seven in this video?",
        "What colour is the heart, please?",
    ],
)
def test_natural_wordings_have_no_unknown_words(loaded, question):
    processor, _ = loaded
    ids = processor.tokenizer.encode(question)
    if "please" in question:
        assert processor.tokenizer.unk_token_id not in ids[:5]
    assert processor.tokenizer.unk_token_id not in ids
    same = processor.tokenizer.encode(re.sub(r"\s+", " ", question.lower()))
    assert ids == same


@pytest.mark.parametrize("pair", QUESTIONS, ids=lambda pair: pair["question"].replace(" ", "-"))
def test_demo_questions_are_answered(loaded, pair):
    frames = sample_uniformly(read_frames(DEMO_VIDEO), 8)
    assert _answer(loaded, frames, pair["question"]) == pair["answer"]


def test_an_answer_comes_from_the_video(loaded):
    frames = sample_uniformly(read_frames(DEMO_VIDEO), 8)
    question = "what came after the red circle?"
    assert _answer(loaded, frames, question) == "green star"
    swapped = np.concatenate([frames[:4], frames[6:], frames[4:6]])
    assert _answer(loaded, swapped, question) == "yellow seven"


def test_held_out_accuracy_on_a_small_sample(loaded):
    processor, model = loaded
    prompts = PromptIds(processor.tokenizer)
    held_out = held_out_batches(prompts, processor.tokenizer.pad_token_id, videos=64, seed=0)
    scores = evaluate_model(model, prompts, held_out)
    assert scores.total() == 640
    assert scores.overall() >= 0.9
    blank = [
        item.batch.__class__(**(vars(item.batch) | {"pixels": torch.zeros_like(item.batch.pixels)}))
        for item in held_out
    ]
    guessed = evaluate_model(
        model,
        prompts,
        [item.__class__(batch, item.questions, item.specs) for item, batch in zip(held_out, blank, strict=True)],
    )
    assert guessed.overall() <= 0.35
