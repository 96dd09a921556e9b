"""Idefics3: lies in the sequence as SmolVLM does; its processor knows images only."""

from __future__ import annotations

from framefusion.hf.families.smolvlm import SmolVLM


class Idefics3(SmolVLM):
    name = "Idefics3"
    model_classes = ("Idefics3ForConditionalGeneration", "Idefics3Model")
