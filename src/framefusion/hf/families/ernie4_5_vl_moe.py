"""ERNIE 4.5 VL: lies in the sequence as Qwen2-VL does, frames in pairs; visual tokens have experts of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from framefusion.hf.families.qwen2_vl import Qwen2VL
from framefusion.hf.towers.grids import GridTower
from framefusion.reduction.layout import Kind


class _ErnieTower(GridTower):
    """The resampler behind it merges two frames, so it runs over all of them."""

    def module(self, model: Any) -> Any:
        return model.vision_tower

    def ends(self, tower: Any) -> Sequence[Any]:
        return [tower.ln]


class Ernie45VLMoe(Qwen2VL):
    """Its grids count single frames."""

    name = "ERNIE 4.5 VL"
    projector = ("resampler_model",)
    model_classes = ("Ernie4_5_VLMoeForConditionalGeneration", "Ernie4_5_VLMoeModel")
    tells_encoder = False
    tower = _ErnieTower()
    frames_apart = False

    def temporal_merge(self, config: Any, kind: Kind) -> int:
        return int(config.vision_config.temporal_merge_size) if kind == "video" else 1

    def token_arguments(self, model: Any, ids: Tensor) -> Mapping[str, Tensor]:
        """Whose experts a token has, as the processor says it: those of text, images or videos; markers count, too."""
        config, types = model.config, torch.zeros_like(ids)
        for number, kind in enumerate(("image", "video"), start=1):
            for name in (f"{kind}_token_id", f"{kind}_start_token_id", f"{kind}_end_token_id"):
                types[ids == getattr(config, name)] = number
        return {"moe_mm_token_type_ids": types}
