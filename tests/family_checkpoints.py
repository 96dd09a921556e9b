"""Checkpoints of every family with its own processor class and chat template, saved as users have them.

The models are the tiny ones of :mod:`tests.hf.models`; words are single characters, so that prompts can be read back.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import transformers as hf
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers.models.glm4v.image_processing_glm4v import Glm4vImageProcessor
from transformers.models.glm4v.video_processing_glm4v import Glm4vVideoProcessor
from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from tests import family_parts
from tests.family_parts import PATCHES, PIXELS, SQUARE, Saved, template
from tests.hf import models
from tests.hf.case import END, IMAGE, SIDE, START, VIDEO

FREE = 64
"""Ids below are special tokens, as the tiny models are configured."""
CHARACTERS = [chr(code) for code in range(32, 127)] + ["\n"]


def tokenizer(special: dict[str, int], attributes: dict[str, str]) -> hf.PreTrainedTokenizerFast:
    """One token for each character, and special tokens at given ids."""
    by_id = {number: token for token, number in special.items()}
    free = iter(["<|im_start|>", "<|im_end|>", "<unk>"])
    words = ["<pad>", *(by_id.get(number) or next(free, f"<unused{number}>") for number in range(1, FREE))]
    vocabulary = {word: number for number, word in enumerate([*words, *CHARACTERS])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    made = hf.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", extra_special_tokens=attributes
    )
    made.add_special_tokens({"additional_special_tokens": [word for word in words if word != "<unk>"]})
    return made


def _qwen(image: Any, video: Any, processor: Any) -> Saved:
    special = {"<|vision_start|>": START, "<|vision_end|>": END, "<|image_pad|>": IMAGE, "<|video_pad|>": VIDEO}
    text = template(
        "<|vision_start|><|image_pad|><|vision_end|>",
        "<|vision_start|><|video_pad|><|vision_end|>",
    )
    return (
        special,
        {},
        text,
        lambda words, chat: processor(
            image_processor=image, tokenizer=words, video_processor=video, chat_template=chat
        ),
    )


def _qwen2(processor: Any) -> Saved:
    return _qwen(
        Qwen2VLImageProcessor(**PATCHES, size=PIXELS), Qwen2VLVideoProcessor(**PATCHES, size=PIXELS), processor
    )


def _qwen3(processor: Any = None) -> Saved:
    video = hf.Qwen3VLVideoProcessor(**PATCHES, size=PIXELS, cap_pixels_per_frame=False)
    return _qwen(Qwen2VLImageProcessor(**PATCHES, size=PIXELS), video, processor or hf.Qwen3VLProcessor)


def _omni(processor: Any) -> Saved:
    names = {
        "image_token": "<|IMAGE|>",
        "video_token": "<|VIDEO|>",
        "audio_token": "<|AUDIO|>",
        "vision_bos_token": "<|vision_bos|>",
        "vision_eos_token": "<|vision_eos|>",
        "audio_bos_token": "<|audio_bos|>",
        "audio_eos_token": "<|audio_eos|>",
    }
    special = dict(zip(names.values(), [IMAGE, VIDEO, 5, START, END, 6, 7], strict=True))
    text = template("<|vision_bos|><|IMAGE|><|vision_eos|>", "<|vision_bos|><|VIDEO|><|vision_eos|>")
    return (
        special,
        names,
        text,
        lambda words, chat: processor(
            image_processor=Qwen2VLImageProcessor(**PATCHES, size=PIXELS),
            video_processor=Qwen2VLVideoProcessor(**PATCHES, size=PIXELS),
            feature_extractor=hf.WhisperFeatureExtractor(feature_size=8),
            tokenizer=words,
            chat_template=chat,
        ),
    )


def _glm(image: Any, video: Any, processor: Any) -> Saved:
    special = {
        "<|image|>": IMAGE,
        "<|video|>": VIDEO,
        "<|begin_of_image|>": START,
        "<|end_of_image|>": END,
        "<|begin_of_video|>": 5,
        "<|end_of_video|>": 6,
    }
    text = template(
        "<|begin_of_image|><|image|><|end_of_image|>",
        "<|begin_of_video|><|video|><|end_of_video|>",
    )
    return (
        special,
        {},
        text,
        lambda words, chat: processor(
            image_processor=image(**PATCHES, size=PIXELS),
            tokenizer=words,
            video_processor=video(**PATCHES, size=PIXELS),
            chat_template=chat,
        ),
    )


def _gemma3() -> Saved:
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    special = {"<start_of_image>": START, "<end_of_image>": END, "<image_soft_token>": IMAGE}
    text = template("<start_of_image>", None, "c.text | trim")
    return (
        special,
        names,
        text,
        lambda words, chat: hf.Gemma3Processor(
            image_processor=hf.Gemma3ImageProcessor(size=SQUARE),
            tokenizer=words,
            chat_template=chat,
            image_seq_length=9,
        ),
    )


def _llava_onevision() -> Saved:
    return (
        {"<image>": IMAGE, "<video>": VIDEO},
        {},
        template("<image>", "<video>"),
        lambda words, chat: hf.LlavaOnevisionProcessor(
            image_processor=hf.LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=[[SIDE, SIDE]]),
            tokenizer=words,
            video_processor=hf.LlavaOnevisionVideoProcessor(size=SQUARE),
            num_image_tokens=36,
            vision_feature_select_strategy="full",
            chat_template=chat,
        ),
    )


def _llava_next_video() -> Saved:
    size = {"shortest_edge": SIDE}
    return (
        {"<image>": IMAGE, "<video>": VIDEO},
        {},
        template("<image>", "<video>"),
        lambda words, chat: hf.LlavaNextVideoProcessor(
            video_processor=hf.LlavaNextVideoVideoProcessor(size=size, crop_size=SQUARE),
            image_processor=hf.LlavaNextImageProcessor(
                size=size, crop_size=SQUARE, image_grid_pinpoints=[[SIDE, SIDE]]
            ),
            tokenizer=words,
            patch_size=4,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=chat,
        ),
    )


def _internvl() -> Saved:
    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    special = dict(zip(names.values(), [START, END, IMAGE, VIDEO], strict=True))
    text = template("<IMG_CONTEXT>\n", "<video>\n")
    return (
        special,
        names,
        text,
        lambda words, chat: hf.InternVLProcessor(
            image_processor=GotOcr2ImageProcessor(size=SQUARE, crop_to_patches=True, max_patches=3),
            tokenizer=words,
            video_processor=hf.InternVLVideoProcessor(size=SQUARE),
            image_seq_length=9,
            chat_template=chat,
        ),
    )


def _video_llama3() -> Saved:
    size = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    text = template("<|image_pad|>", "<|video_pad|>")
    return (
        {"<|image_pad|>": IMAGE, "<|video_pad|>": VIDEO},
        {},
        text,
        lambda words, chat: hf.VideoLlama3Processor(
            image_processor=hf.VideoLlama3ImageProcessor(patch_size=4, merge_size=1, size=size),
            tokenizer=words,
            video_processor=hf.VideoLlama3VideoProcessor(
                **PATCHES, size={**size, "longest_edge": 16 * 64 * 64}, use_token_compression=False
            ),
            chat_template=chat,
        ),
    )


def _tiles() -> dict[str, int]:
    special = {"<image>": IMAGE, "<video>": VIDEO, "<fake_token_around_image>": 5, "<global-img>": 6}
    return special | {f"<row_{i + 1}_col_{j + 1}>": 10 + 6 * i + j for i in range(6) for j in range(6)}


def _smolvlm() -> Saved:
    longest = {"longest_edge": SIDE}
    return (
        _tiles() | {"<end_of_utterance>": 50},
        {},
        template("<image>", "<video>"),
        lambda words, chat: hf.SmolVLMProcessor(
            image_processor=hf.SmolVLMImageProcessor(size={"longest_edge": 2 * SIDE}, max_image_size=longest),
            tokenizer=words,
            video_processor=hf.SmolVLMVideoProcessor(
                size=longest, max_image_size=longest, video_sampling={"fps": 1, "max_frames": 64, "video_size": longest}
            ),
            image_seq_len=9,
            chat_template=chat,
        ),
    )


def _idefics3() -> Saved:
    return (
        _tiles() | {"<end_of_utterance>": 50},
        {},
        template("<image>", None),
        lambda words, chat: hf.Idefics3Processor(
            image_processor=hf.Idefics3ImageProcessor(
                size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}
            ),
            tokenizer=words,
            image_seq_len=9,
            chat_template=chat,
        ),
    )


def _minicpm(processor: Any) -> Saved:
    names = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "image_start_token": "<image>",
        "image_end_token": "</image>",
        "slice_start_token": "<slice>",
        "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>",
        "image_id_end_token": "</image_id>",
    }
    special = dict(zip(names.values(), [IMAGE, VIDEO, START, END, 5, 6, 8, 9], strict=True))
    sizes = {"patch_size": 4, "scale_resolution": 32, "max_slice_nums": 1}
    text = template("<|image_pad|>\n", "<|video_pad|>\n")
    return (
        special,
        names,
        text,
        lambda words, chat: processor(
            image_processor=hf.MiniCPMV4_6ImageProcessor(**sizes),
            video_processor=hf.MiniCPMV4_6VideoProcessor(**sizes),
            tokenizer=words,
            chat_template=chat,
        ),
    )


PARTS: dict[str, Callable[[], Saved]] = {
    "gemma3": _gemma3,
    "llava_onevision": _llava_onevision,
    "qwen2_vl": lambda: _qwen2(hf.Qwen2VLProcessor),
    "qwen2_5_vl": lambda: _qwen2(hf.Qwen2_5_VLProcessor),
    "qwen2_5_omni": lambda: _omni(hf.Qwen2_5OmniProcessor),
    "qwen3_omni": lambda: _omni(hf.Qwen3OmniMoeProcessor),
    "qwen3_vl": _qwen3,
    "qwen3_vl_moe": _qwen3,
    "qwen3_5": _qwen3,
    "qwen3_5_moe": _qwen3,
    "glm4v": lambda: _glm(Glm4vImageProcessor, Glm4vVideoProcessor, hf.Glm4vProcessor),
    "glm46v": lambda: _glm(hf.Glm46VImageProcessor, hf.Glm46VVideoProcessor, hf.Glm46VProcessor),
    "glm4v_moe": lambda: _glm(Glm4vImageProcessor, Glm4vVideoProcessor, hf.Glm4vProcessor),
    "llava_next_video": _llava_next_video,
    "internvl": _internvl,
    "video_llama3": _video_llama3,
    "smolvlm": _smolvlm,
    "idefics3": _idefics3,
    "minicpmv4_6": lambda: _minicpm(hf.MiniCPMV4_6Processor),
    "minicpmv4_7": lambda: _minicpm(hf.MiniCPMV4_7Processor),
    "gemma4": family_parts.gemma4,
    "gemma4_moe": family_parts.gemma4,
    "gemma4_e": family_parts.gemma4,
    "mistral3": family_parts.mistral3,
    "ministral3": family_parts.mistral3,
    "llava": lambda: family_parts.llava(
        hf.LlavaProcessor, hf.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE)
    ),
    "llava_next": lambda: family_parts.llava(
        hf.LlavaNextProcessor,
        hf.LlavaNextImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE, image_grid_pinpoints=[[SIDE, SIDE]]),
    ),
    "gemma3n": family_parts.gemma3n,
    "llama4": family_parts.llama4,
    "cohere2_vision": family_parts.cohere2_vision,
    "aria": family_parts.aria,
    "video_llava": family_parts.video_llava,
    "ovis2": family_parts.ovis2,
    "kimi_k25": family_parts.kimi_k25,
    "exaone4_5": lambda: _qwen2(hf.Exaone4_5_Processor),
    "lfm2_vl": family_parts.lfm2_vl,
    "molmo2": family_parts.molmo2,
    "perception_lm": family_parts.perception_lm,
    "ernie4_5_vl_moe": family_parts.ernie4_5_vl_moe,
    "lfm3_vl": lambda: _qwen3(hf.Lfm3VlProcessor),
    "nemotron_h_omni": family_parts.nemotron_h_omni,
}


def processor(name: str) -> Any:
    """The processor of a family, with the sizes of its tiny model."""
    special, attributes, chat, make = PARTS[name]()
    return make(tokenizer(special, attributes), chat)


def save(name: str, directory: Path) -> Path:
    """The tiny model of a family and its processor in a directory."""
    module = import_module(f"tests.hf.families.{name}")
    model = module.checkpoint() if hasattr(module, "checkpoint") else models.build(name).model
    model.resize_token_embeddings(FREE + len(CHARACTERS))
    if "vocab_size" in vars(model.config):
        # Beside that of the text, which has been changed.
        model.config.vocab_size = FREE + len(CHARACTERS)
    model.save_pretrained(directory)
    processor(name).save_pretrained(directory)
    return directory
