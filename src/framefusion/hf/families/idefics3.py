"""Idefics3: lies in the sequence as SmolVLM does; its processor knows images only."""

from __future__ import annotations

from types import MappingProxyType

from framefusion.hf.families.smolvlm import SmolVLM
from framefusion.layout import Kind


class Idefics3(SmolVLM):
    name = "Idefics3"
    model_classes = ("Idefics3ForConditionalGeneration", "Idefics3Model")
    needs_names: frozenset[Kind] = frozenset({"video"})
    frames_as_images = True
    one_view = MappingProxyType({"do_image_splitting": False})
