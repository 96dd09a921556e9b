"""A tiny Idefics3."""

from __future__ import annotations

from transformers import Idefics3Config, Idefics3ForConditionalGeneration

from tests.hf.case import Case
from tests.hf.families.smolvlm import case_of


def build() -> Case:
    return case_of("idefics3", Idefics3Config, Idefics3ForConditionalGeneration)
