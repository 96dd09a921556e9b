"""Qwen3-VL-MoE: lies in the sequence as Qwen3-VL does; only its MLPs are mixtures of experts."""

from __future__ import annotations

from framefusion.hf.families.qwen3_vl import Qwen3VL


class Qwen3VLMoe(Qwen3VL):
    name = "Qwen3-VL-MoE"
    model_classes = ("Qwen3VLMoeForConditionalGeneration", "Qwen3VLMoeModel")
