"""Tiny random-weight models of the supported families, and inputs as their processors would make them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

PAD, VIDEO, IMAGE, START, END = 0, 1, 2, 3, 4
LAYERS = 4

_TEXT = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "pad_token_id": PAD,
    "bos_token_id": None,
    "eos_token_id": None,
    "initializer_range": 0.2,
}
_MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}}
_IDS = {"image_token_id": IMAGE, "video_token_id": VIDEO}


@dataclass
class Case:
    """A model and how to make its inputs: a row is a list whose entries are a number of text tokens, or a video
    ``(T, H, W)`` in tokens."""

    name: str
    model: Any
    encode: Callable[[Sequence[tuple[int, int, int]]], dict[str, Tensor]]
    wrap: Callable[[tuple[int, int, int]], list[int]]
    fixed_grid: tuple[int, int] | None = None

    def inputs(self, rows: Sequence[Sequence[int | tuple[int, int, int]]], side: str = "left") -> dict[str, Tensor]:
        """The model's keyword arguments for a padded batch."""
        generator = torch.Generator().manual_seed(len(rows) + 7)
        ids, videos = [], []
        for row in rows:
            tokens: list[int] = []
            for part in row:
                if isinstance(part, int):
                    tokens += torch.randint(10, 64, (part,), generator=generator).tolist()
                else:
                    tokens += self.wrap(part)
                    videos.append(part)
            ids.append(tokens)
        length = max(map(len, ids))
        pad = [[PAD] * (length - len(row)) for row in ids]
        ones = [[1] * len(row) for row in ids]
        left = side == "left"
        batch = {
            "input_ids": torch.tensor([p + r if left else r + p for p, r in zip(pad, ids, strict=True)]),
            "attention_mask": torch.tensor([p + r if left else r + p for p, r in zip(pad, ones, strict=True)]),
        }
        batch.update(self.encode(videos) if videos else {})
        if "video_grid_thw" in batch:
            batch["mm_token_type_ids"] = (batch["input_ids"] == VIDEO).int() * 2
        return batch


def _scenes(grid: tuple[int, int, int], channels: int, size: tuple[int, int], seed: int) -> Tensor:
    """Frames ``(T, C, h, w)`` with cuts and near-still stretches, so that some tokens merge and some do not."""
    generator = torch.Generator().manual_seed(seed)
    frames = []
    for t in range(grid[0]):
        if t % 3 == 0:
            scene = torch.randn(channels, *size, generator=generator)
        frames.append(scene + 0.6 * torch.randn(channels, *size, generator=generator))
    return torch.stack(frames)


def _llava_onevision() -> Case:
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **_TEXT},
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 24,
            "patch_size": 4,
            "vision_use_head": False,
        },
        vision_feature_layer=-1,
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        **_IDS,
    )
    model = LlavaOnevisionForConditionalGeneration(config)

    def encode(videos: Sequence[tuple[int, int, int]]) -> dict[str, Tensor]:
        pixels = [_scenes(grid, 3, (24, 24), seed) for seed, grid in enumerate(videos)]
        return {"pixel_values_videos": torch.stack(pixels)}

    return Case("llava_onevision", model, encode, lambda g: [VIDEO] * (g[0] * g[1] * g[2] + 1), (3, 3))


def _qwen(name: str, config_class: Any, model_class: Any, vision: dict[str, Any]) -> Case:
    config = config_class(
        text_config={**_TEXT, **_MROPE},
        vision_config={"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, **vision},
        vision_start_token_id=START,
        vision_end_token_id=END,
        **_IDS,
    )

    def encode(videos: Sequence[tuple[int, int, int]]) -> dict[str, Tensor]:
        pixels, grids = [], []
        for seed, (t, h, w) in enumerate(videos):
            patches = _scenes((t, h, w), 4 * h * w, (3 * 2 * 4 * 4,), seed)
            pixels.append(patches.flatten(0, 1))
            grids.append([t, 2 * h, 2 * w])
        return {"pixel_values_videos": torch.cat(pixels), "video_grid_thw": torch.tensor(grids)}

    return Case(name, model_class(config), encode, lambda g: [START, *[VIDEO] * (g[0] * g[1] * g[2]), END])


def _qwen2_vl() -> Case:
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2, "in_chans": 3}
    return _qwen("qwen2_vl", Qwen2VLConfig, Qwen2VLForConditionalGeneration, vision)


def _qwen2_5_vl() -> Case:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 64,
        "window_size": 16,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 1,
    }
    return _qwen("qwen2_5_vl", Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, vision)


BUILDERS: dict[str, Callable[[], Case]] = {
    "llava_onevision": _llava_onevision,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
}


def build(name: str, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Case:
    """One family's tiny model with fixed weights."""
    torch.manual_seed(1)
    case = BUILDERS[name]()
    case.model.to(dtype).eval()
    case.model.set_attn_implementation(attention)
    return case
