"""The contract: family × way to generate × stage plan equals the masked oracle.

``make test`` runs every family in every way with one plan, in turns; ``make test-all`` (``--matrix``) runs all of it and
writes the table of the docs.
"""

from __future__ import annotations

from functools import lru_cache

import pytest

import framefusion
from tests.hf import models
from tests.hf.case import Case
from tests.hf.prompts import PROMPTS
from tests.hf.ways import ONE_ROW, PLANS, STEPS, WAYS, difference

TOLERANCE = 2e-4


@lru_cache(maxsize=4)
def _case(family: str, attention: str) -> Case:
    return models.build(family, attention)


def cells() -> list[tuple[str, str, str]]:
    """Every (family, way, plan)."""
    return [(family, way, plan) for family in models.BUILDERS for way in WAYS for plan in PLANS]


def _prompts(way: str, whole: bool) -> tuple[str, ...]:
    if way in ONE_ROW:
        return ("single",)
    return ("single", "ragged") if whole else ("ragged",)


def in_fast_subset(family: str, way: str, plan: str) -> bool:
    """One plan for each family and way; neighbours get different ones."""
    place = models.BUILDERS.index(family) + list(WAYS).index(way)
    return list(PLANS)[place % len(PLANS)] == plan


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen = [cell for cell in cells() if metafunc.config.getoption("--matrix") or in_fast_subset(*cell)]
    metafunc.parametrize(("family", "way", "plan"), chosen)


def test_equals_the_masked_oracle(
    family: str, way: str, plan: str, request: pytest.FixtureRequest, matrix_record: dict[str, dict[str, float]]
) -> None:
    whole = request.config.getoption("--matrix")
    for attention in ("sdpa", "eager") if whole else ("sdpa",):
        case = _case(family, attention)
        for prompt in _prompts(way, whole):
            inputs = case.inputs(PROMPTS[prompt](case))
            with framefusion.attach(case.model, PLANS[plan]) as run:
                said = WAYS[way](case, inputs, run)
                assert run.tokens_per_layer[-1] < run.summary().visual_tokens_before
            assert said.sequences.shape[1] == inputs["input_ids"].shape[1] + STEPS
            worst = difference(case, inputs, said)
            own = matrix_record.setdefault(family, {})
            own[way] = max(own.get(way, 0.0), worst)
            assert worst <= TOLERANCE, f"{attention}, {prompt}: differs by {worst:.2e}"
