"""Random-weight checkpoints of the supported families, complete with processor, saved as users have them."""

from pathlib import Path

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

QUESTION_WORDS = ["describe", "the", "video", "what", "which", "colour", "is", "it", "a", "of", "in"]
OTHER_WORDS = ["red", "green", "blue", "circle", "square", "user", "assistant"]
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<image>",
    "<video>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }} "
    "{% for part in message.content %}{% if part.type == 'video' %}{{ VIDEO }}"
    "{% elif part.type == 'text' %} {{ part.text }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def tokenizer() -> hf.PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, "[unk]", *QUESTION_WORDS, *OTHER_WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[unk]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = hf.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[unk]", pad_token="<|endoftext|>", eos_token="<|im_end|>"
    )
    fast.add_special_tokens({"additional_special_tokens": SPECIAL})
    return fast


def save_llava_onevision(directory: Path) -> Path:
    """LLaVA-OneVision: 56-pixel frames, 4 × 4 visual tokens each, 4 decoder layers."""
    torch.manual_seed(0)
    text = tokenizer()
    config = hf.LlavaOnevisionConfig(
        text_config=hf.Qwen2Config(**TEXT),
        vision_config=hf.SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=56,
            patch_size=7,
            vision_use_head=False,
        ),
        image_token_index=text.convert_tokens_to_ids("<image>"),
        video_token_index=text.convert_tokens_to_ids("<video>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[56, 56]],
    )
    size = {"height": 56, "width": 56}
    processor = hf.LlavaOnevisionProcessor(
        image_processor=hf.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=[[56, 56]]),
        tokenizer=text,
        video_processor=hf.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=64,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE.replace("{{ VIDEO }}", "<video>"),
    )
    hf.LlavaOnevisionForConditionalGeneration(config).eval().save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def _save_qwen(directory: Path, config_class, model_class, processor_class, vision: dict) -> Path:
    torch.manual_seed(0)
    text = tokenizer()
    config = config_class(
        text_config={**TEXT, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}},
        vision_config=vision,
        image_token_id=text.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=text.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=text.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=text.convert_tokens_to_ids("<|vision_end|>"),
    )
    size = {"shortest_edge": 56 * 56, "longest_edge": 112 * 112}
    processor = processor_class(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=text,
        video_processor=Qwen2VLVideoProcessor(size=size),
        chat_template=TEMPLATE.replace("{{ VIDEO }}", "<|vision_start|><|video_pad|><|vision_end|>"),
    )
    model_class(config).eval().save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def save_qwen2_vl(directory: Path) -> Path:
    """Qwen2-VL: two frames per temporal patch, 28-pixel tokens, 4 decoder layers."""
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2}
    return _save_qwen(directory, hf.Qwen2VLConfig, hf.Qwen2VLForConditionalGeneration, hf.Qwen2VLProcessor, vision)


def save_qwen2_5_vl(directory: Path) -> Path:
    """Qwen2.5-VL: as Qwen2-VL with a windowed tower and absolute time."""
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [1],
        "window_size": 56,
    }
    return _save_qwen(
        directory, hf.Qwen2_5_VLConfig, hf.Qwen2_5_VLForConditionalGeneration, hf.Qwen2_5_VLProcessor, vision
    )


SAVE = {
    "llava-onevision": save_llava_onevision,
    "qwen2-vl": save_qwen2_vl,
    "qwen2.5-vl": save_qwen2_5_vl,
}
