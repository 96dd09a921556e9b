"""LFM3-VL: lies in the sequence as Qwen3-VL does; most of its decoder layers are short convolutions."""

from __future__ import annotations

from framefusion.hf.families.qwen3_vl import Qwen3VL
from framefusion.hf.towers.base import Tower


class Lfm3VL(Qwen3VL):
    """Its positions are those of text, so inside ``generate()``, which drops the grids, a frame counts as one row."""

    name = "LFM3-VL"
    tower: Tower | None = None
    no_tower = "its layers convolve over the grid of a frame, which needs all of its patches"
    projector = ("multi_modal_projector",)
    model_classes = ("Lfm3VlForConditionalGeneration", "Lfm3VlModel")
