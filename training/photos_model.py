"""The LLaVA-OneVision of photographs: a frozen real DINOv2, a projector, and the bundled checkpoint's decoder."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from checkpoint import CHAT_TEMPLATE, END, PAD, SPECIAL, word_tokenizer
from llava import IMAGE, VIDEO
from model import LONGEST, WIDTH, decoder_config
from runs import RUNS
from torch import Tensor, nn
from transformers import (
    Dinov2Config,
    GenerationConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from windowed import windowed

from framefusion.evaluation.dinov2 import MEAN, STD, load_dinov2
from framefusion.evaluation.needle.photo_questions import vocabulary
from framefusion.evaluation.needle.photo_scenes import PHOTO_GRID, PHOTO_SIZE
from framefusion.evaluation.needle.questions import PUNCTUATION
from framefusion.evaluation.photos import resized

GRID = PHOTO_GRID
PROJECTED = WIDTH


def tower(windows: int | None = None) -> nn.Module:
    """The frozen encoder for frames of 168 pixels; ``windows``: attends within windows of so many patches a side."""
    model = resized(load_dinov2(), PHOTO_SIZE)
    return model if windows is None else windowed(model, windows)


def run_of(windows: int | None) -> Path:
    """The folder of the run with this encoder."""
    return RUNS / ("photos" if windows is None else f"photos-windows-{windows}")


def add_windows(parser: argparse.ArgumentParser) -> None:
    """The option that says which encoder."""
    parser.add_argument(
        "--windows",
        type=int,
        metavar="SIDE",
        help="most blocks of the encoder attend within windows of SIDE × SIDE patches; a run of its own",
    )


def see(model: nn.Module, pixels: Tensor) -> Tensor:
    """Hidden states of the patches as the class hands them to the projector, ``(F, 144, 384)``.

    ``pixels`` ``(F, 3, 168, 168)`` in −1 … 1.
    """
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    normed = ((pixels + 1) / 2 - mean) / std
    return model(pixel_values=normed, output_hidden_states=True).hidden_states[-1][:, 1:]


def pool(tokens: Tensor) -> Tensor:
    """The class's pooling of 12 × 12 projected patches to 6 × 6 tokens: ``(F, 144, D)`` to ``(F, 36, D)``."""
    square = tokens.unflatten(1, (2 * GRID, 2 * GRID)).movedim(-1, 1)
    return nn.functional.interpolate(square, size=(GRID, GRID), mode="bilinear").flatten(2).transpose(1, 2)


def tokenizer() -> PreTrainedTokenizerFast:
    """Word-level tokenizer over the questions' vocabulary."""
    words = [*PUNCTUATION, "user", "assistant", "system", *vocabulary()]
    return word_tokenizer([*SPECIAL, IMAGE, VIDEO], words, longest=LONGEST)


def processor() -> LlavaOnevisionProcessor:
    """The class's own processor: square frames of 168 pixels, normalised as DINOv2 was trained."""
    pixels = {
        "size": {"height": PHOTO_SIZE, "width": PHOTO_SIZE},
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "default_to_square": True,
    }
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(image_grid_pinpoints=[[PHOTO_SIZE, PHOTO_SIZE]], **pixels),
        video_processor=LlavaOnevisionVideoProcessor(do_sample_frames=False, **pixels),
        tokenizer=tokenizer(),
        num_image_tokens=(2 * GRID) ** 2,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE.replace("IMAGE", IMAGE).replace("VIDEO", VIDEO),
        vision_aspect_ratio="anyres_max_1",
    )


def build(seeing: nn.Module | None) -> LlavaOnevisionForConditionalGeneration:
    """The unmodified class around the tower ``seeing``; None leaves out most of the tower's layers."""
    words = tokenizer()
    end, pad = (words.convert_tokens_to_ids(name) for name in (END, PAD))
    layers = {} if seeing is not None else {"num_hidden_layers": 1}
    vision = Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=PHOTO_SIZE, patch_size=14, **layers)
    if seeing is not None:
        vision = seeing.config
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=Qwen2Config(rope_parameters=rope, **decoder_config(words)),
        image_token_index=words.convert_tokens_to_ids(IMAGE),
        video_token_index=words.convert_tokens_to_ids(VIDEO),
        image_grid_pinpoints=[[PHOTO_SIZE, PHOTO_SIZE]],
        vision_aspect_ratio="anyres_max_1",
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    model = LlavaOnevisionForConditionalGeneration(config)
    if seeing is not None:
        model.model.vision_tower.load_state_dict(seeing.state_dict())
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=pad, max_new_tokens=8, do_sample=False)
    return model
