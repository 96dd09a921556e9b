"""Every class of the installed transformers that sees pictures or videos is supported, or refused by name: so no
release of it can surprise us."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn
from transformers.models.auto import modeling_auto

import framefusion
from framefusion import UnsupportedModelError
from framefusion.hf import families
from framefusion.hf.families.refused import REFUSED

MAPPINGS = ("MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES")
SUPPORTED = {name for family in families.FAMILIES for name in family.model_classes}


def mapped() -> set[str]:
    """The classes of the auto mappings for pictures, videos and sound."""
    return {name for mapping in MAPPINGS for name in getattr(modeling_auto, mapping).values()}


def written() -> set[str]:
    """The classes in the source of transformers that generate and whose ``forward`` takes something to see."""
    found = set()
    for path in (Path(transformers.__file__).parent / "models").glob("*/modeling_*.py"):
        for part in re.split(r"^(?=class )", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
            head = re.match(r"class (\w+)\(.*\bGenerationMixin\b", part)
            arguments = re.search(r"def forward\((.*?)\) ->|def forward\((.*?)\):", part, re.DOTALL)
            if head and arguments and re.search("pixel_values|image|video", arguments[0]):
                found.add(head[1])
    return found


def test_the_source_is_read_as_it_is_written() -> None:
    assert {"Qwen2VLForConditionalGeneration", "LlavaOnevisionForConditionalGeneration"} <= written()


@pytest.mark.parametrize("source", [mapped, written])
def test_every_class_is_supported_or_refused(source) -> None:
    """Else: a family, or a line in framefusion/hf/families/refused.py with the reason."""
    assert sorted(source() - SUPPORTED - set(REFUSED)) == []


def test_nothing_is_supported_and_refused() -> None:
    """Else: the line in framefusion/hf/families/refused.py goes."""
    assert sorted(SUPPORTED & set(REFUSED)) == []


def test_reasons_are_half_sentences() -> None:
    for name, reason in REFUSED.items():
        assert re.fullmatch(r"(it|its|an|of|text|attach|not) .*[^. ]", reason), name


def source_of(name: str) -> str:
    """The file of a class, and the processors beside it."""
    module = Path(inspect.getfile(getattr(transformers, name)))
    return "".join(path.read_text(encoding="utf-8") for path in [module, *module.parent.glob("*process*.py")])


SEES_VIDEOS = re.compile(r"def get_video_features|class \w+VideoProcessor\b")
REASONS = {
    "it hears sound and sees nothing": (None, re.compile("pixel_values")),
    "not supported yet; it takes pictures alone, no videos": (re.compile("def get_image_features"), SEES_VIDEOS),
    "it transcribes documents": (re.compile("def get_image_features"), SEES_VIDEOS),
    "its class takes videos too, but it transcribes documents": (SEES_VIDEOS, None),
    "not supported yet; it takes one picture a prompt": (re.compile("Fuyu can't do multi-image"), SEES_VIDEOS),
}
"""What the source of a class refused for a reason has, and what it has not."""


@pytest.mark.parametrize("reason", list(REASONS))
def test_what_a_reason_says_of_a_class_is_so(reason: str) -> None:
    has, lacks = REASONS[reason]
    names = [name for name, own in REFUSED.items() if own.startswith(reason)]
    assert names
    for name in names:
        source = source_of(name)
        assert has is None or has.search(source), name
        assert lacks is None or not lacks.search(source), name


@pytest.mark.parametrize("head", [True, False])
def test_the_reason_is_told(head: bool) -> None:
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    text = {**small, "vocab_size": 16, "cross_attention_layers": [], "num_key_value_heads": 1, "pad_token_id": 0}
    vision = {**small, "attention_heads": 1, "num_global_layers": 1, "image_size": 8, "patch_size": 4}
    config = transformers.MllamaConfig(text_config=text, vision_config={**vision, "intermediate_layers_indices": [0]})
    with torch.device("meta"):
        model: nn.Module = transformers.MllamaForConditionalGeneration(config)
    reason = re.escape(REFUSED["MllamaForConditionalGeneration"])
    with pytest.raises(UnsupportedModelError, match=rf"^Mllama\w+ is not supported: {reason}\. Supported: LLaVA-One"):
        framefusion.attach(model if head else model.model)
