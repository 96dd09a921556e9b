"""Processors of families with the sizes of their tiny models: what they share, and the newest ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers as hf

from tests.hf.case import END, IMAGE, SIDE, START, VIDEO

SQUARE = {"height": SIDE, "width": SIDE}
PIXELS = {"shortest_edge": 16 * 16, "longest_edge": 16 * 64 * 64}
PATCHES = {"patch_size": 4, "merge_size": 2}

Saved = tuple[dict[str, int], dict[str, str], str, Callable[[Any, str], Any]]
"""Special tokens by id, the tokenizer's attributes, the chat template, and what makes the processor."""


def template(image: str, video: str | None, text: str = "c.text") -> str:
    """A turn as the families write it; without ``video`` the template does not know such parts."""
    videos = "" if video is None else "{% elif c.type == 'video' %}" + video
    return (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}"
        "{% if c.type == 'image' %}" + image + videos + "{% elif c.type == 'text' %}{{ " + text + " }}{% endif %}"
        "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def kimi_k25() -> Saved:
    special = {"<|media_pad|>": IMAGE, "<|kimi_k25_video_placeholder|>": VIDEO, "<|media_begin|>": START}
    special |= {"<|media_end|>": END, "<|media_content|>": 5}
    text = template("<|media_begin|>image<|media_content|><|media_pad|><|media_end|>", "<|kimi_k25_video_placeholder|>")
    return (
        special,
        {},
        text,
        lambda words, chat: hf.Kimi_K25Processor(
            image_processor=hf.Kimi_K25ImageProcessor(patch_size=4),
            video_processor=hf.Kimi_K25VideoProcessor(patch_size=4, temporal_patch_size=2),
            tokenizer=words,
            chat_template=chat,
        ),
    )


def lfm2_vl() -> Saved:
    names = {
        "image_token": "<image>",
        "image_start_token": "<|image_start|>",
        "image_end_token": "<|image_end|>",
        "image_thumbnail_token": "<|img_thumbnail|>",
    }
    special = dict(zip(names.values(), [IMAGE, START, END, 6], strict=True))
    special |= {f"<|img_row_{i + 1}_col_{j + 1}|>": 10 + 2 * i + j for i in range(2) for j in range(2)}
    return (
        special,
        names,
        template("<image>", None),
        lambda words, chat: hf.Lfm2VlProcessor(
            image_processor=hf.Lfm2VlImageProcessor(
                encoder_patch_size=4,
                tile_size=SIDE,
                max_tiles=2,
                min_image_tokens=4,
                max_image_tokens=9,
                max_num_patches=36,
            ),
            tokenizer=words,
            chat_template=chat,
        ),
    )


def molmo2() -> Saved:
    special = {"<|image|>": 10, "<|video|>": 11, "<im_patch>": IMAGE, "<im_col>": 5, "<im_start>": START}
    special |= {"<im_end>": END, "<frame_start>": 6, "<frame_end>": 7, "<low_res_im_start>": 8, "<im_low>": 9}
    sizes = {"size": SQUARE, "patch_size": 4, "pooling_size": [2, 2]}
    return (
        special | {"<bos>": 12},
        {"bos_token": "<bos>"},
        template("<|image|>", "<|video|>"),
        lambda words, chat: hf.Molmo2Processor(
            image_processor=hf.Molmo2ImageProcessor(**sizes, max_crops=2, overlap_margins=[1, 1]),
            video_processor=hf.Molmo2VideoProcessor(**sizes),
            tokenizer=words,
            chat_template=chat,
        ),
    )


def perception_lm() -> Saved:
    names = {"image_token": "<|image|>", "video_token": "<|video|>"}
    return (
        {"<|image|>": IMAGE, "<|video|>": VIDEO},
        names,
        template("<|image|>", "<|video|>"),
        lambda words, chat: hf.PerceptionLMProcessor(
            image_processor=hf.PerceptionLMImageProcessor(tile_size=SIDE, max_num_tiles=2),
            video_processor=hf.PerceptionLMVideoProcessor(size=SQUARE),
            tokenizer=words,
            patch_size=4,
            pooling_ratio=2,
            chat_template=chat,
        ),
    )


def ernie4_5_vl_moe() -> Saved:
    names = {
        "image_token": "<|IMAGE_PLACEHOLDER|>",
        "image_start_token": "<|IMAGE_START|>",
        "image_end_token": "<|IMAGE_END|>",
        "video_token": "<|VIDEO_PLACEHOLDER|>",
        "video_start_token": "<|VIDEO_START|>",
        "video_end_token": "<|VIDEO_END|>",
    }
    special = dict(zip(names.values(), [IMAGE, START, END, VIDEO, 5, 6], strict=True))
    text = template(
        "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>", "<|VIDEO_START|><|VIDEO_PLACEHOLDER|><|VIDEO_END|>"
    )
    return (
        special,
        names,
        text,
        lambda words, chat: hf.Ernie4_5_VLMoeProcessor(
            image_processor=hf.Ernie4_5_VLMoeImageProcessor(**PATCHES, size=PIXELS),
            # Times are drawn on the frames in a font that comes with the checkpoints.
            video_processor=hf.Ernie4_5_VLMoeVideoProcessor(**PATCHES, size=PIXELS, draw_on_frames=False),
            tokenizer=words,
            chat_template=chat,
        ),
    )
