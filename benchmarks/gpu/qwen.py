"""A Qwen2.5-VL with the shape of the 7B one and random weights, and prompts for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench

VIDEO, IMAGE, START, END = 1, 2, 3, 4
TEXT = 24
"""Tokens of text around the video."""
IN_STEP = 2
"""Frames that the tower encodes together."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a model and of its videos.

    Attributes:
        text, vision: of the config.
        frames: of the videos, ``IN_STEP`` of them in each step of the grid.
        side: tokens of a frame along either side.
        tokens: that are decoded.
    """

    text: dict[str, Any]
    vision: dict[str, Any]
    frames: tuple[int, ...]
    side: int
    tokens: int


SEVEN_BILLION = Shape(
    text={
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128000,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    vision={
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
    frames=(64, 256),
    side=14,
    tokens=32,
)
"""That of Qwen/Qwen2.5-VL-7B-Instruct, on frames of 392 × 392 pixels."""

TINY = Shape(
    text={
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
    },
    vision={
        "depth": 4,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 64,
        "fullatt_block_indexes": [1, 3],
    },
    frames=(8, 16),
    side=4,
    tokens=3,
)


def shape_of(bench: Bench) -> Shape:
    """The 7B one; a tiny one where a run is rehearsed."""
    return TINY if bench.rehearsal else SEVEN_BILLION


def build(bench: Bench) -> Any:
    """The model in bfloat16, made on the device."""
    from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig

    shape = shape_of(bench)
    config = Qwen2_5_VLConfig(
        text_config=shape.text,
        vision_config=shape.vision,
        video_token_id=VIDEO,
        image_token_id=IMAGE,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    torch.manual_seed(0)
    with torch.device(bench.device):
        return AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16).eval()


def frames_of(model: Any, shape: Shape, frames: int, changed: float = 1.0) -> dict[str, Tensor]:
    """Patches of a video: scenes of eight steps, in each step of which a share of the patches changes a little.

    Args:
        model: that is to encode them.
        shape: of the frames.
        frames: of the video.
        changed: share of the patches that differ from the step before, in squares that merge into one token.
    """
    vision, steps, patches = model.config.vision_config, frames // IN_STEP, 4 * shape.side**2
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    generator = torch.Generator(model.device).manual_seed(0)

    def noise(*size: int) -> Tensor:
        return torch.randn(*size, device=model.device, dtype=model.dtype, generator=generator)

    pixels = torch.empty(steps, patches, width, device=model.device, dtype=model.dtype)
    for step in range(steps):
        if step % 8 == 0:
            scene = noise(patches, width)
        else:
            squares = torch.rand(patches // 4, device=model.device, generator=generator) < changed
            # Four patches in a row make a token.
            scene = torch.where(
                squares.repeat_interleave(4)[:, None], pixels[step - 1] + 0.5 * noise(patches, width), pixels[step - 1]
            )
        pixels[step] = scene
    grid = torch.tensor([[steps, 2 * shape.side, 2 * shape.side]], device=model.device)
    return {"pixel_values_videos": pixels.flatten(0, 1), "video_grid_thw": grid}


def prompt(model: Any, shape: Shape, video: dict[str, Tensor]) -> dict[str, Any]:
    """What the model is called with: a third of the text, the video, the rest of the text."""
    visual = int(video["video_grid_thw"].prod()) // 4
    text = words(model, TEXT)[0].tolist()
    ids = torch.tensor([[*text[: TEXT // 3], START, *[VIDEO] * visual, END, *text[TEXT // 3 :]]], device=model.device)
    return {"input_ids": ids, "mm_token_type_ids": (ids == VIDEO).int() * 2, "logits_to_keep": 1, **video}


def encode(model: Any, video: dict[str, Tensor]) -> Any:
    """The tower's output."""
    return model.model.get_video_features(video["pixel_values_videos"], video["video_grid_thw"], return_dict=True)


def encoded(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """A prompt whose video is encoded beforehand."""
    rest = {name: value for name, value in inputs.items() if name != "pixel_values_videos"}
    return {**rest, "mm_encoder_outputs": {"video": encode(model, inputs)}}


def words(model: Any, count: int) -> Tensor:
    """``(1, count)`` ids of words."""
    generator = torch.Generator().manual_seed(1)
    vocabulary = model.config.text_config.vocab_size
    return torch.randint(10, vocabulary, (1, count), generator=generator).to(model.device)


def decode(
    model: Any,
    cache: Any,
    token: Tensor,
    steps: int,
    step: Callable[..., Any] | None = None,
    column: int | None = None,
) -> list[Tensor]:
    """Tokens ``(1, 1)`` behind a prefill, greedily.

    Args:
        model: that ran it.
        cache: that it filled.
        token: ``(1, 1)``, that it ended with; with the strides of those that are returned, a compiled step stays.
        steps: tokens to decode.
        step: what is called for each; the model itself by default.
        column: of ``token`` in the prompt, where the model is not to work it out by itself.
    """
    said: list[Tensor] = []
    for index in range(steps):
        where = {}
        if column is not None:
            where["position_ids"] = (column + index + model.model.rope_deltas).expand(3, 1, 1)
        out = (step or model)(input_ids=token, past_key_values=cache, use_cache=True, **where)
        # A CUDA graph writes the next logits into the same memory.
        token = out.logits[:, -1].argmax(-1, keepdim=True)
        said.append(token)
    return said
