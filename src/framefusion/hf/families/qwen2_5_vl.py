"""Qwen2.5-VL: lies in the sequence as Qwen2-VL does; only its temporal positions are spaced by time."""

from __future__ import annotations

from framefusion.hf.families.qwen2_vl import Qwen2VL


class Qwen25VL(Qwen2VL):
    name = "Qwen2.5-VL"
    model_classes = ("Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLModel")
