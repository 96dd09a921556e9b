"""Qwen3-Omni: its thinker is laid out as that of Qwen2.5-Omni, in front of a mixture of experts with DeepStack."""

from __future__ import annotations

from framefusion.hf.families.qwen2_5_omni import Qwen25Omni
from framefusion.hf.towers.base import Tower
from framefusion.hf.towers.grids import GridTower


class Qwen3Omni(Qwen25Omni):
    name = "Qwen3-Omni (thinker)"
    model_classes = ("Qwen3OmniMoeThinkerForConditionalGeneration", "Qwen3OmniMoeThinkerModel")
    tower: Tower | None = GridTower()
