"""Qwen2.5-VL: two frames a slot, rotary positions in time, height and width, special tokens around the video."""

from __future__ import annotations

import math

import torch
from checkpoint import CHAT_TEMPLATE, IMAGE_MEAN, IMAGE_STD
from model import NEIGHBOURS, PATCH_SIZE, TOKENS_PER_FRAME, Family, decoder_config
from torch import Tensor, nn
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from framefusion.evaluation.needle.footage import FRAME_SIZE
from framefusion.evaluation.needle.scenes import TOKEN_GRID
from framefusion.evaluation.videoneedle import SECONDS

AROUND = ("vision_start", "vision_end")
MERGE, TOGETHER = 2, 2
"""Patches across and down, and frames, that make one visual token."""


class Qwen(Family):
    """Tower 3 × 96 with 6-pixel patches, decoder 12 × 128."""

    frames_per_slot = TOGETHER
    special = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    before_video = "<|vision_start|>"

    def processor(self) -> Qwen2_5_VLProcessor:
        pixels = {
            "size": {"shortest_edge": FRAME_SIZE**2, "longest_edge": FRAME_SIZE**2},
            "image_mean": IMAGE_MEAN,
            "image_std": IMAGE_STD,
            "patch_size": PATCH_SIZE,
            "temporal_patch_size": TOGETHER,
            "merge_size": MERGE,
        }
        around = "<|vision_start|>{}<|vision_end|>"
        template = CHAT_TEMPLATE.replace("IMAGE", around.format("<|image_pad|>"))
        return Qwen2_5_VLProcessor(
            image_processor=Qwen2VLImageProcessor(**pixels),
            video_processor=Qwen2VLVideoProcessor(do_sample_frames=False, cap_pixels_per_frame=False, **pixels),
            tokenizer=self.tokenizer(),
            chat_template=template.replace("VIDEO", around.format("<|video_pad|>")),
        )

    def create(self, tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
        vision = {
            "depth": 3,
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_heads": 4,
            "out_hidden_size": 128,
            "patch_size": PATCH_SIZE,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": TOGETHER,
            "window_size": FRAME_SIZE,
            "fullatt_block_indexes": [0, 1, 2],
            "tokens_per_second": 1,
        }
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
        names = ("image", "<|image_pad|>"), ("video", "<|video_pad|>"), *((n, f"<|{n}|>") for n in AROUND)
        ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in names}
        config = Qwen2_5_VLConfig(
            text_config={"rope_parameters": rope, **decoder_config(tokenizer)}, vision_config=vision, **ids
        )
        return Qwen2_5_VLForConditionalGeneration(config)

    def start_tower(self, tower: nn.Module) -> None:
        start_local(tower)

    def tower(self, model: nn.Module) -> nn.Module:
        return model.model.visual

    def blocks(self, model: nn.Module) -> nn.ModuleList:
        return model.model.visual.blocks

    def seeing(self, model: nn.Module) -> list[nn.Parameter]:
        return [*model.model.visual.parameters()]

    def encode(self, model: nn.Module, pixels: Tensor) -> Tensor:
        slots, side = len(pixels) // TOGETHER, FRAME_SIZE // PATCH_SIZE
        grid = torch.tensor([[slots, side, side]])
        return model.model.visual(patches(pixels), grid_thw=grid).pooler_output.unflatten(0, (slots, TOKENS_PER_FRAME))

    def closing(self, model: nn.Module) -> Tensor:
        return model.get_input_embeddings().weight[model.config.vision_end_token_id]

    def positions(self, places: Tensor, slots: int, first: int) -> tuple[Tensor, int]:
        # As many seconds as slots of 16 frames, so that time never runs past the text behind the video.
        time = (places // TOKENS_PER_FRAME * (SECONDS / slots)).long()
        row, column = places % TOKENS_PER_FRAME // TOKEN_GRID, places % TOKEN_GRID
        return torch.stack([time, row, column]) + first, first + TOKEN_GRID


def patches(pixels: Tensor) -> Tensor:
    """What the processor makes of frames ``(F, 3, 96, 96)``: ``(patches, 3 * 2 * 6 * 6)``, four for each token."""
    side = FRAME_SIZE // PATCH_SIZE // MERGE
    cut = pixels.reshape(-1, TOGETHER, 3, side, MERGE, PATCH_SIZE, side, MERGE, PATCH_SIZE)
    return cut.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).flatten(0, 4).flatten(1)


@torch.no_grad()
def start_local(tower: nn.Module, near: float = 4.0, far: float = 5.0) -> None:
    """The tower has rotary positions only: constant queries and keys of its two highest frequencies, one turned by the
    head's offset, make attention a bump around the neighbour.
    """
    for block, offsets in zip(tower.blocks, NEIGHBOURS, strict=True):
        attention = block.attn
        width, head = attention.dim, attention.head_dim
        frequencies = tower.rotary_pos_emb.inv_freq[:2].tolist()
        axis = head // 4
        attention.qkv.bias.zero_()
        attention.qkv.weight[: 2 * width].normal_(std=0.02)
        query, key = (attention.qkv.bias[i * width : (i + 1) * width].view(-1, head) for i in (0, 1))
        for number, (dx, dy) in enumerate(offsets):
            for first, offset in ((0, dy), (axis, dx)):
                for pair, (turn, size) in enumerate(zip(frequencies, (near, far), strict=True)):
                    angle = turn * offset
                    key[number, first + pair] = size
                    query[number, first + pair] = size * math.cos(angle)
                    query[number, first + pair + head // 2] = size * math.sin(angle)
