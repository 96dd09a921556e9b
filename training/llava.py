"""LLaVA-OneVision: one frame a slot, positions in a row, a newline token behind the video."""

from __future__ import annotations

import math

import torch
from checkpoint import CHAT_TEMPLATE, IMAGE_MEAN, IMAGE_STD
from model import NEIGHBOURS, PATCH_SIZE, TOKENS_PER_FRAME, Family, decoder_config
from torch import Tensor, nn
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

from framefusion.evaluation.needle.footage import FRAME_SIZE

IMAGE, VIDEO = "<image>", "<video>"


class Llava(Family):
    """SigLIP tower 3 × 96 with 6-pixel patches, Qwen2 decoder 12 × 128."""

    special = (IMAGE, VIDEO)

    def processor(self) -> LlavaOnevisionProcessor:
        pixels = {
            "size": {"height": FRAME_SIZE, "width": FRAME_SIZE},
            "image_mean": IMAGE_MEAN,
            "image_std": IMAGE_STD,
            "default_to_square": True,
        }
        return LlavaOnevisionProcessor(
            image_processor=LlavaOnevisionImageProcessor(image_grid_pinpoints=[[FRAME_SIZE, FRAME_SIZE]], **pixels),
            video_processor=LlavaOnevisionVideoProcessor(do_sample_frames=False, **pixels),
            tokenizer=self.tokenizer(),
            num_image_tokens=(FRAME_SIZE // PATCH_SIZE) ** 2,
            vision_feature_select_strategy="full",
            chat_template=CHAT_TEMPLATE.replace("IMAGE", IMAGE).replace("VIDEO", VIDEO),
            vision_aspect_ratio="anyres_max_1",
        )

    def create(self, tokenizer: PreTrainedTokenizerFast) -> LlavaOnevisionForConditionalGeneration:
        vision = SiglipVisionConfig(
            hidden_size=96,
            intermediate_size=192,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=FRAME_SIZE,
            patch_size=PATCH_SIZE,
            vision_use_head=False,
        )
        rope = {"rope_type": "default", "rope_theta": 10000.0}
        config = LlavaOnevisionConfig(
            vision_config=vision,
            text_config=Qwen2Config(rope_parameters=rope, **decoder_config(tokenizer)),
            image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
            video_token_index=tokenizer.convert_tokens_to_ids(VIDEO),
            image_grid_pinpoints=[[FRAME_SIZE, FRAME_SIZE]],
            vision_aspect_ratio="anyres_max_1",
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        )
        return LlavaOnevisionForConditionalGeneration(config)

    def start_tower(self, tower: nn.Module) -> None:
        start_local(tower)

    def tower(self, model: nn.Module) -> nn.Module:
        return model.model.vision_tower

    def blocks(self, model: nn.Module) -> nn.ModuleList:
        return model.model.vision_tower.encoder.layers

    def seeing(self, model: nn.Module) -> list[nn.Parameter]:
        return [*model.model.vision_tower.parameters(), *model.model.multi_modal_projector.parameters()]

    def encode(self, model: nn.Module, pixels: Tensor) -> Tensor:
        core = model.model
        # The class takes the last layer's output without the norm behind it.
        states = core.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
        return core.apply_pooling(core.multi_modal_projector(states))

    def closing(self, model: nn.Module) -> Tensor:
        return model.model.image_newline

    def own(self, model: nn.Module) -> list[nn.Parameter]:
        return [model.model.image_newline]

    def positions(self, places: Tensor, slots: int, first: int) -> tuple[Tensor, int]:
        return places + first, first + slots * TOKENS_PER_FRAME


_FREQUENCIES = (1, 2, 4, 6)


@torch.no_grad()
def start_local(tower: nn.Module, strength: float = 1.5) -> None:
    """The first 16 channels of the position embedding become sines and cosines of the patch's column and row (four
    frequencies each), and a head's query is its key rotated by the head's offset.
    """
    embeddings = tower.embeddings
    side = embeddings.image_size // embeddings.patch_size
    width = 4 * len(_FREQUENCIES)
    angles = torch.tensor(_FREQUENCIES) * (2 * torch.pi / side)

    def encode(position: Tensor) -> Tensor:
        phase = position[:, None] * angles
        return torch.stack([phase.cos(), phase.sin()], dim=-1).flatten(1)

    axis = torch.arange(side)
    columns, rows = axis.repeat(side), axis.repeat_interleave(side)
    embeddings.position_embedding.weight[:, :width] = torch.cat([encode(columns), encode(rows)], dim=1)
    embeddings.patch_embedding.weight[:width] = 0
    for layer, offsets in zip(tower.encoder.layers, NEIGHBOURS, strict=True):
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
