"""Qwen3.5: lies in the sequence as Qwen3-VL does; most of its decoder layers attend linearly."""

from __future__ import annotations

from framefusion.hf.families.qwen3_vl import Qwen3VL


class Qwen35(Qwen3VL):
    name = "Qwen3.5"
    model_classes = ("Qwen3_5ForConditionalGeneration", "Qwen3_5Model")
