"""A tiny GLM-4.6V."""

from __future__ import annotations

from transformers import Glm46VConfig, Glm46VForConditionalGeneration

from tests.hf.case import Case
from tests.hf.families.glm4v import case_of


def build() -> Case:
    return case_of("glm46v", Glm46VConfig, Glm46VForConditionalGeneration, {})
