"""Parts of a small checkpoint: tokenizer, processor, and the start of a vision tower."""

from __future__ import annotations

import math

import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
)

IMAGE_MEAN = [0.5, 0.5, 0.5]
IMAGE_STD = [0.5, 0.5, 0.5]

PAD, UNK, START, END = "<|endoftext|>", "<unk>", "<|im_start|>", "<|im_end|>"
IMAGE, VIDEO = "<image>", "<video>"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}"
    "{% elif part['type'] == 'video' %}{{ '<video>' }}"
    "{% endif %}{% endfor %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ ' ' + part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|im_end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
)


def word_tokenizer(vocabulary: list[str], longest: int = 4096) -> PreTrainedTokenizerFast:
    """Word-level tokenizer over the special tokens and ``vocabulary``; lower-cases and splits off punctuation.

    ``longest`` is the prompt length from which transformers warns, in tokens.
    """
    words = [PAD, UNK, START, END, IMAGE, VIDEO, *vocabulary]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNK))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(behavior="isolated")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNK,
        eos_token=END,
        additional_special_tokens=[START, IMAGE, VIDEO],
        padding_side="left",
        model_max_length=longest,
        clean_up_tokenization_spaces=False,
    )


def frame_processor(tokenizer: PreTrainedTokenizerFast, frame: int, patch: int) -> LlavaOnevisionProcessor:
    """The class's own processor: square frames of ``frame`` pixels, scaled to −1 … 1, never re-sampled in time."""
    pixels = {
        "size": {"height": frame, "width": frame},
        "image_mean": IMAGE_MEAN,
        "image_std": IMAGE_STD,
        "default_to_square": True,
    }
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(image_grid_pinpoints=[[frame, frame]], **pixels),
        video_processor=LlavaOnevisionVideoProcessor(do_sample_frames=False, **pixels),
        tokenizer=tokenizer,
        num_image_tokens=(frame // patch) ** 2,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
        vision_aspect_ratio="anyres_max_1",
    )


_FREQUENCIES = (1, 2, 4, 6)
# Where the heads of the tower's layers look at first, in patches (x, y).
_OFFSETS = (
    ((-1, -1), (1, -1), (-1, 1), (1, 1)),
    ((-2, 0), (2, 0), (0, -2), (0, 2)),
    ((-2, -2), (2, -2), (-2, 2), (2, 2)),
)


@torch.no_grad()
def start_local(tower: torch.nn.Module, strength: float = 1.5) -> None:
    """Let each head of the vision tower start by looking at a neighbouring patch.

    The first 16 channels of the position embedding become sines and cosines of the patch's column and row
    (four frequencies each), and a head's query is its key rotated by the head's offset, so that attention
    begins as a small convolution and is free to leave it (ConViT, arXiv 2103.10697). From a random start the
    tower needs many more steps before it tells shapes apart.
    """
    embeddings = tower.embeddings
    side = embeddings.image_size // embeddings.patch_size
    width = 4 * len(_FREQUENCIES)
    angles = torch.tensor(_FREQUENCIES) * (2 * torch.pi / side)

    def encode(position: torch.Tensor) -> torch.Tensor:
        phase = position[:, None] * angles
        return torch.stack([phase.cos(), phase.sin()], dim=-1).flatten(1)

    axis = torch.arange(side)
    columns, rows = axis.repeat(side), axis.repeat_interleave(side)
    embeddings.position_embedding.weight[:, :width] = torch.cat([encode(columns), encode(rows)], dim=1)
    embeddings.patch_embedding.weight[:width] = 0
    for layer, offsets in zip(tower.encoder.layers, _OFFSETS, strict=False):
        attention = layer.self_attn
        attention.q_proj.weight.zero_()
        attention.k_proj.weight.zero_()
        for head, (dx, dy) in enumerate(offsets):
            first = head * attention.head_dim
            turns = torch.cat([dx * angles, dy * angles])
            for pair, turn in enumerate(turns.tolist()):
                i, j = first + 2 * pair, 2 * pair
                cos, sin = math.cos(turn), math.sin(turn)
                attention.k_proj.weight[i : i + 2, j : j + 2] = strength * torch.eye(2)
                attention.q_proj.weight[i : i + 2, j : j + 2] = strength * torch.tensor([[cos, -sin], [sin, cos]])
