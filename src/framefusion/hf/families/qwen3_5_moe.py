"""Qwen3.5-MoE: lies in the sequence as Qwen3.5 does; only its MLPs are mixtures of experts."""

from __future__ import annotations

from framefusion.hf.families.qwen3_5 import Qwen35


class Qwen35Moe(Qwen35):
    name = "Qwen3.5-MoE"
    model_classes = ("Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeModel")
