"""The registry of model families: one file and one line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from framefusion.errors import ArgumentError, ArgumentTypeError
from framefusion.hf.families.aria import Aria
from framefusion.hf.families.base import Call, Family, UnsupportedModelError
from framefusion.hf.families.cohere2_vision import Cohere2Vision
from framefusion.hf.families.ernie4_5_vl_moe import Ernie45VLMoe
from framefusion.hf.families.exaone4_5 import Exaone45
from framefusion.hf.families.gemma3 import Gemma3
from framefusion.hf.families.gemma3n import Gemma3n
from framefusion.hf.families.gemma4 import Gemma4
from framefusion.hf.families.glm4v import Glm4v
from framefusion.hf.families.glm4v_moe import Glm4vMoe
from framefusion.hf.families.glm46v import Glm46V
from framefusion.hf.families.idefics3 import Idefics3
from framefusion.hf.families.internvl import InternVL
from framefusion.hf.families.kimi_k25 import KimiK25
from framefusion.hf.families.lfm2_vl import Lfm2VL
from framefusion.hf.families.lfm3_vl import Lfm3VL
from framefusion.hf.families.llama4 import Llama4
from framefusion.hf.families.llava import Llava
from framefusion.hf.families.llava_next import LlavaNext
from framefusion.hf.families.llava_next_video import LlavaNextVideo
from framefusion.hf.families.llava_onevision import LlavaOnevision
from framefusion.hf.families.minicpmv4_6 import MiniCPMV46
from framefusion.hf.families.minicpmv4_7 import MiniCPMV47
from framefusion.hf.families.mistral3 import Mistral3
from framefusion.hf.families.molmo2 import Molmo2
from framefusion.hf.families.nemotron_h_omni import NemotronHOmni
from framefusion.hf.families.ovis2 import Ovis2
from framefusion.hf.families.perception_lm import PerceptionLM
from framefusion.hf.families.qwen2_5_omni import Qwen25Omni
from framefusion.hf.families.qwen2_5_vl import Qwen25VL
from framefusion.hf.families.qwen2_vl import Qwen2VL
from framefusion.hf.families.qwen3_5 import Qwen35
from framefusion.hf.families.qwen3_5_moe import Qwen35Moe
from framefusion.hf.families.qwen3_omni import Qwen3Omni
from framefusion.hf.families.qwen3_vl import Qwen3VL
from framefusion.hf.families.qwen3_vl_moe import Qwen3VLMoe
from framefusion.hf.families.refused import known_class, refusal, refused
from framefusion.hf.families.smolvlm import SmolVLM
from framefusion.hf.families.video_llama3 import VideoLlama3
from framefusion.hf.families.video_llava import VideoLlava
from framefusion.reduction.layout import VisualLayout

FAMILIES: list[Family] = [
    LlavaOnevision(),
    LlavaNextVideo(),
    Qwen2VL(),
    Qwen25VL(),
    Qwen3VL(),
    Qwen3VLMoe(),
    Qwen35(),
    Qwen35Moe(),
    Qwen25Omni(),
    Qwen3Omni(),
    Glm4v(),
    Glm46V(),
    Glm4vMoe(),
    Gemma3(),
    InternVL(),
    VideoLlama3(),
    SmolVLM(),
    Idefics3(),
    MiniCPMV46(),
    MiniCPMV47(),
    Gemma4(),
    Mistral3(),
    Llava(),
    LlavaNext(),
    Gemma3n(),
    Llama4(),
    Cohere2Vision(),
    Aria(),
    VideoLlava(),
    Ovis2(),
    KimiK25(),
    Exaone45(),
    Lfm2VL(),
    Lfm3VL(),
    Molmo2(),
    PerceptionLM(),
    Ernie45VLMoe(),
    NemotronHOmni(),
]

__all__ = [
    "FAMILIES",
    "Call",
    "Family",
    "UnsupportedModelError",
    "find",
    "known_class",
    "layouts_of",
    "refused",
    "register_family",
    "table",
    "unwrapped",
]


def register_family(family: Family) -> None:
    """Add a model family of your own; models of its classes can be attached from now on.

    Args:
        family: an object of a subclass of :class:`Family` with ``name``, ``model_classes``, ``placeholder``,
            ``verified`` and ``layouts()``. The helpers of :mod:`framefusion.hf.families.base` and
            :mod:`framefusion.reduction.layout` build the layouts.

    Raises:
        TypeError: ``family`` is not an object of a subclass of ``Family``, or one of its names is missing.
        ValueError: its name or one of its classes is registered already.
    """
    if not isinstance(family, Family):
        what = "the class itself; pass an object of it" if isinstance(family, type) else type(family).__name__
        raise ArgumentTypeError(f"family must be an object of a subclass of framefusion.Family, got {what}.")
    for field in ("name", "model_classes", "placeholder", "verified"):
        if not getattr(family, field, None):
            raise ArgumentTypeError(f"family {type(family).__name__} has no {field}; set it on the class.")
    if isinstance(family.model_classes, str):
        raise ArgumentTypeError(f"model_classes of family {family.name} must be a tuple of class names, got a string.")
    for known in FAMILIES:
        shared = set(known.model_classes).intersection(family.model_classes)
        if known.name == family.name or shared:
            what = f"the name {family.name!r}" if known.name == family.name else f"the class {min(shared)}"
            raise ArgumentError(f"{what} is registered already by {type(known).__module__}; choose another one.")
    FAMILIES.append(family)


def find(model: nn.Module) -> Family:
    """The family of a model, by its class or a base class of it.

    Raises:
        UnsupportedModelError: with the reason, where it is known, and the list of what is supported.
    """
    names = {cls.__name__ for cls in type(model).__mro__}
    for family in FAMILIES:
        if names.intersection(family.model_classes):
            return family
    supported = ", ".join(f"{family.name} ({family.model_classes[0]})" for family in FAMILIES)
    reason = refusal(model)
    because = "" if reason is None else f": {reason}"
    raise UnsupportedModelError(
        f"{type(model).__name__} is not supported{because}. Supported: {supported}. For another video LLM, write a "
        "framefusion.Family that tells where its visual tokens are, and pass an object of it to "
        "framefusion.register_family() (docs/guides/own.md)."
    )


def layouts_of(model: Any, inputs: Mapping[str, Any]) -> list[VisualLayout]:
    """Where the visual tokens of each sample are, before the model runs.

    Args:
        model: a supported model, bare or inside what PEFT or ``torch.compile`` put around it.
        inputs: its keyword arguments, as the processor makes them.

    Raises:
        UnsupportedModelError: the model is of no supported family.
        ValueError: the placeholders do not match the videos and images.
    """
    model = unwrapped(model)
    return find(model).layouts(model.base_model, Call(inputs["input_ids"], None, inputs))


def unwrapped(model: Any) -> Any:
    """The model inside what PEFT or ``torch.compile`` put around it."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif hasattr(model, "get_base_model"):
            model = model.get_base_model()
        else:
            return model


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
