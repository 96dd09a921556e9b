"""The rules beside the default ones, inside a model, against the oracle."""

from __future__ import annotations

from typing import Any

import pytest

import framefusion
from framefusion import FrameFusion
from tests.hf import models
from tests.hf.prompts import PROMPTS
from tests.hf.ways import difference, greedy

RULES: dict[str, dict[str, Any]] = {
    "merged when dropped": {"keep": {1: 0.5, 3: 0.2}, "dropped": "merge", "dropped_lower_bound": 0.2},
    "merged when dropped, cascade": {"cost": 0.6, "merge": True, "similarity_lower_bound": 0.5, "relevance": "last"},
    "joint": {"keep": {0: 0.5, 2: 0.3}, "budget_rule": "joint", "segmentation": "frames"},
    "adaptive": {"keep": {1: 0.9, 2: 0.9}, "novelty_lower_bound": 0.2, "keep_lower_bound": 0.1},
    "adaptive cascade": {"cost": 0.9, "merge": True, "novelty_lower_bound": 0.2, "budget_rule": "joint"},
    "adaptive pyramid": {"cost": 0.9, "novelty_lower_bound": 0.2},
    "merge, then keep": {"keep": {2: 0.3}, "merge": True, "similarity_lower_bound": 0.8, "relevance_sign": -1},
    "dropped": {"keep": {0: 0.5, 2: 0.2}, "relevance": "last", "dropped": "drop"},
    "dyseg": {"keep": 0.3, "segmentation": "dyseg", "segment_minimum": 2},
    "dp": {"keep": 0.3, "segmentation": "dp", "segment_threshold": 0.5},
}


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision"])
def test_every_rule_equals_masking(family: str, rule: str) -> None:
    case = models.build(family)
    inputs = case.inputs(PROMPTS["ragged"](case))
    with framefusion.attach(case.model, FrameFusion(**RULES[rule])) as run:
        said = greedy(case, inputs, run)
        assert run.stages
    assert difference(case, inputs, said) <= 2e-4
