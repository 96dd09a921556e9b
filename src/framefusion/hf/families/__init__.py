"""The registry of model families: one file and one line each."""

from __future__ import annotations

from torch import nn

from framefusion.hf.families.base import Call, Family, UnsupportedModelError
from framefusion.hf.families.llava_onevision import LlavaOnevision
from framefusion.hf.families.qwen2_5_vl import Qwen25VL
from framefusion.hf.families.qwen2_vl import Qwen2VL

FAMILIES: tuple[Family, ...] = (
    LlavaOnevision(),
    Qwen2VL(),
    Qwen25VL(),
)

__all__ = ["FAMILIES", "Call", "Family", "UnsupportedModelError", "find", "table"]


def find(model: nn.Module) -> Family:
    """The family of a model, by its class or a base class of it.

    Raises:
        UnsupportedModelError: with the list of what is supported.
    """
    names = {cls.__name__ for cls in type(model).__mro__}
    for family in FAMILIES:
        if names.intersection(family.model_classes):
            return family
    supported = ", ".join(f"{family.name} ({family.model_classes[0]})" for family in FAMILIES)
    raise UnsupportedModelError(f"{type(model).__name__} is not supported. Supported: {supported}.")


def table() -> list[dict[str, str]]:
    """One row per family: ``name``, ``model_class``, ``placeholder``, ``verified``; for listings."""
    return [
        {
            "name": family.name,
            "model_class": family.model_classes[0],
            "placeholder": family.placeholder,
            "verified": family.verified,
        }
        for family in FAMILIES
    ]
