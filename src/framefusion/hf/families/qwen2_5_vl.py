"""Qwen2.5-VL: lies in the sequence as Qwen2-VL does; only its temporal positions are spaced by time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from framefusion.hf.families.qwen2_vl import Qwen2VL
from framefusion.hf.towers.base import Tower
from framefusion.hf.towers.grids import WindowTower, window_order


class Qwen25VL(Qwen2VL):
    name = "Qwen2.5-VL"
    model_classes = ("Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLModel")
    tower: Tower | None = WindowTower()

    def in_order(self, model: Any, tokens: Tensor, grids: Tensor) -> Tensor:
        """The encoder has them window by window."""
        windows = window_order(model.visual, grids)
        return tokens[torch.argsort(windows.to(tokens.device))]
