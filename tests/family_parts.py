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


def gemma4() -> Saved:
    names = {
        "image_token": "<|image|>",
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "audio_token": "<|audio|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
    }
    special = dict(zip([*names.values(), "<|video|>"], [IMAGE, START, END, 5, 6, 7, VIDEO], strict=True))
    sizes = {"patch_size": 4, "max_soft_tokens": 70, "pooling_kernel_size": 3}
    return (
        special,
        names,
        template("<|image|>", "<|video|>", "c.text | trim"),
        lambda words, chat: hf.Gemma4Processor(
            feature_extractor=hf.Gemma4AudioFeatureExtractor(),
            image_processor=hf.Gemma4ImageProcessor(**sizes),
            video_processor=hf.Gemma4VideoProcessor(**sizes),
            tokenizer=words,
            chat_template=chat,
        ),
    )


def gemma3n() -> Saved:
    names = {
        "image_token": "<image_soft_token>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "audio_token": "<audio_soft_token>",
        "boa_token": "<start_of_audio>",
        "eoa_token": "<end_of_audio>",
    }
    special = dict(zip(names.values(), [IMAGE, START, END, 5, 6, 7], strict=True))
    return (
        special,
        names,
        template("<image_soft_token>", None, "c.text | trim"),
        lambda words, chat: hf.Gemma3nProcessor(
            feature_extractor=hf.Gemma3nAudioFeatureExtractor(),
            # The tower of the tiny checkpoint sees three squares of 32 pixels across.
            image_processor=hf.SiglipImageProcessor(size={"height": 96, "width": 96}),
            tokenizer=words,
            chat_template=chat,
            image_seq_length=9,
        ),
    )


def mistral3() -> Saved:
    return (
        {"[IMG]": IMAGE, "[IMG_BREAK]": 5, "[IMG_END]": END},
        {},
        template("[IMG]", None),
        lambda words, chat: hf.PixtralProcessor(
            image_processor=hf.PixtralImageProcessor(size={"longest_edge": 64}, patch_size={"height": 4, "width": 4}),
            tokenizer=words,
            patch_size=4,
            spatial_merge_size=2,
            chat_template=chat,
        ),
    )


def llava(processor: Any, image: Any) -> Saved:
    return (
        {"<image>": IMAGE},
        {},
        template("<image>\n", None),
        lambda words, chat: processor(
            image_processor=image,
            tokenizer=words,
            patch_size=8,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=chat,
        ),
    )


def video_llava() -> Saved:
    size = {"shortest_edge": SIDE}
    return (
        {"<image>": IMAGE, "<video>": VIDEO},
        {},
        template("<image>\n", "<video>\n"),
        lambda words, chat: hf.VideoLlavaProcessor(
            image_processor=hf.VideoLlavaImageProcessor(size=size, crop_size=SQUARE),
            video_processor=hf.VideoLlavaVideoProcessor(size=size, crop_size=SQUARE),
            tokenizer=words,
            patch_size=8,
            chat_template=chat,
        ),
    )


def llama4() -> Saved:
    special = {
        "<|patch|>": IMAGE,
        "<|image_start|>": START,
        "<|image_end|>": END,
        "<|tile_x_separator|>": 5,
        "<|tile_y_separator|>": 6,
        "<|image|>": 7,
    }
    return (
        special,
        {},
        template("<|image|>", None, "c.text | trim"),
        lambda words, chat: hf.Llama4Processor(
            image_processor=hf.Llama4ImageProcessor(size=SQUARE, max_patches=3),
            tokenizer=words,
            patch_size=4,
            chat_template=chat,
        ),
    )


def cohere2_vision() -> Saved:
    names = {
        "boi_token": "<|START_OF_IMG|>",
        "eoi_token": "<|END_OF_IMG|>",
        "image_token": "<|IMG_PATCH|>",
        "img_line_break_token": "<|IMG_LINE_BREAK|>",
    }
    return (
        dict(zip(names.values(), [START, END, IMAGE, 5], strict=True)),
        names,
        template("<|IMG_PATCH|>", None),
        lambda words, chat: hf.Cohere2VisionProcessor(
            image_processor=hf.Cohere2VisionImageProcessor(size=SQUARE, patch_size=3, max_patches=3),
            tokenizer=words,
            chat_template=chat,
        ),
    )


def aria() -> Saved:
    return (
        {"<|img|>": IMAGE, "<fim_prefix>": START, "<fim_suffix>": END},
        {"image_token": "<|img|>"},
        template("<fim_prefix><|img|><fim_suffix>", None),
        lambda words, chat: hf.AriaProcessor(
            image_processor=hf.AriaImageProcessor(),
            tokenizer=words,
            size_conversion={490: 9, 980: 16},
            chat_template=chat,
        ),
    )


def ovis2() -> Saved:
    special = {
        "<IMG_ATOM>": IMAGE,
        "<IMG_START>": START,
        "<IMG_END>": END,
        "<IMG_COL>": 5,
        "<IMG_ROW>": 6,
        "<IMG_GRID>": 7,
        "<image>": 8,
    }
    return (
        special,
        {},
        template("<image>\n", None),
        lambda words, chat: hf.Ovis2Processor(
            image_processor=hf.Ovis2ImageProcessor(size=SQUARE, crop_to_patches=True, max_patches=3),
            tokenizer=words,
            image_seq_length=9,
            chat_template=chat,
        ),
    )


def nemotron_h_omni() -> Saved:
    names = {
        "image_token": "<image>",
        "video_token": "<video>",
        "audio_token": "<so_embedding>",
        "image_start_token": "<img>",
        "image_end_token": "</img>",
    }
    sizes = {"patch_size": 4, "downsample_ratio": 0.5}
    return (
        dict(zip(names.values(), [IMAGE, VIDEO, 5, START, END], strict=True)),
        names,
        template("<image>", "<video>"),
        lambda words, chat: hf.NemotronH_Omni_Reasoning_V3Processor(
            # As many patches as 32 × 48 pixels have.
            image_processor=hf.NemotronH_Omni_Reasoning_V3ImageProcessor(
                **sizes, min_num_patches=96, max_num_patches=96
            ),
            video_processor=hf.NemotronH_Omni_Reasoning_V3VideoProcessor(
                **sizes, video_target_num_patches=96, norm_mean=[0.5] * 3, norm_std=[0.5] * 3
            ),
            tokenizer=words,
            feature_extractor=hf.ParakeetFeatureExtractor(),
            chat_template=chat,
        ),
    )
