"""The script on a model card: a video path in a chat message, decoded by transformers with torchcodec."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

import framefusion
from framefusion.assets import BUNDLED, DEMO_VIDEO

torchcodec = pytest.importorskip("torchcodec", reason="the extra torchcodec is not installed")
pytestmark = pytest.mark.skipif(
    torchcodec.ffmpeg_major_version is None, reason="torchcodec found no FFmpeg: scripts/system_packages.sh ffmpeg"
)


@pytest.mark.parametrize(("name", "frames"), [("bundled", 16), ("bundled-qwen", 32)])
def test_the_script_on_a_model_card(name: str, frames: int) -> None:
    processor = AutoProcessor.from_pretrained(BUNDLED[name])
    model = AutoModelForImageTextToText.from_pretrained(BUNDLED[name])

    def inputs_of(key: str) -> Any:
        video = {"type": "video", key: str(DEMO_VIDEO)}
        text = {"type": "text", "text": "which large thing came after the red circle?"}
        return processor.apply_chat_template(
            [{"role": "user", "content": [video, text]}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"num_frames": frames, "do_sample_frames": True},
        )

    inputs = inputs_of("path")
    for key in ("url", "video"):
        assert torch.equal(inputs_of(key)["pixel_values_videos"], inputs["pixel_values_videos"])

    def answer() -> str:
        output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        return processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    assert answer() == "red diamond"
    with framefusion.attach(model, framefusion.FrameFusion(keep=0.25)) as run:
        assert answer() == "red diamond"
    assert run.summary().visual_tokens_before == 1024
    assert run.summary().visual_tokens_after == 256
