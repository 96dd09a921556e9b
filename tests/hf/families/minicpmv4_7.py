"""A tiny MiniCPM-V 4.7."""

from __future__ import annotations

from transformers import MiniCPMV4_7Config, MiniCPMV4_7ForConditionalGeneration

from tests.hf.case import END, START, Case, mrope_types
from tests.hf.families.minicpmv4_6 import NEWLINE, SLICE, SLICE_END, case_of


def build() -> Case:
    case = case_of(
        "minicpmv4_7",
        MiniCPMV4_7Config,
        MiniCPMV4_7ForConditionalGeneration,
        image_start_id=START,
        image_end_id=END,
        slice_start_id=SLICE,
        slice_end_id=SLICE_END,
        newline_id=NEWLINE,
    )
    case.finish = mrope_types
    return case
