"""EXAONE 4.5: lies in the sequence as Qwen2-VL does, but its positions are those of text."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from framefusion.hf.families.qwen2_vl import Qwen2VL
from framefusion.hf.towers.base import Tower
from framefusion.hf.towers.grids import WindowTower
from framefusion.reduction.layout import Kind


class Exaone45(Qwen2VL):
    """The frames of a video follow each other without anything between, so inside ``generate()``, which drops the
    grids, its features carry them."""

    name = "EXAONE 4.5"
    model_classes = ("Exaone4_5_ForConditionalGeneration", "Exaone4_5_Model")
    carried: Mapping[Kind, str] = MappingProxyType({"video": "video_grid_thw", "image": "image_grid_thw"})
    tells_encoder = False
    tower: Tower | None = WindowTower()
