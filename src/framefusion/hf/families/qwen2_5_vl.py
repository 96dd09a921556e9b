"""Qwen2.5-VL: lies in the sequence as Qwen2-VL does; only its temporal positions are spaced by time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from framefusion.hf.families.qwen2_vl import Qwen2VL


class Qwen25VL(Qwen2VL):
    name = "Qwen2.5-VL"
    model_classes = ("Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLModel")

    def in_order(self, model: Any, tokens: Tensor, grids: Tensor) -> Tensor:
        """The encoder has them window by window."""
        tower = model.visual
        if hasattr(tower, "get_window_index"):
            windows, _ = tower.get_window_index(grids)
        else:
            # Older releases of transformers have the method instead.
            from transformers.vision_utils import get_vision_window_index

            windows, _ = get_vision_window_index(
                grids,
                spatial_merge_size=tower.spatial_merge_size,
                window_size=tower.window_size,
                patch_size=tower.patch_size,
            )
        return tokens[torch.argsort(torch.as_tensor(windows, device=tokens.device))]
