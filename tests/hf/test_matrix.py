"""The contract: family × way to generate × stage plan equals the masked oracle, prefill and five decoded steps.

``make test`` runs every family in every way with one plan, in turns, but compiles only for the families of
:data:`tests.hf.models.APART`; ``make test-all`` (``--matrix``) runs all of it and writes the table of the docs.
"""

from __future__ import annotations

from functools import lru_cache

import pytest

from framefusion import FrameFusion
from tests.hf import models
from tests.hf.case import Case
from tests.hf.prompts import PROMPTS
from tests.hf.ways import ALONE, COMPILED, EXCLUDED, PLANS, TOLERANCE, WAYS, generate, prompts_of


@lru_cache(maxsize=2)
def _case(family: str, attention: str) -> Case:
    return models.build(family, attention)


def cells() -> list[tuple[str, str, str]]:
    """Every (family, way, plan)."""
    ways = [(family, way) for family in models.BUILDERS for way in WAYS if (family, way) not in EXCLUDED]
    return [(family, way, plan) for family, way in ways for plan in PLANS]


def in_fast_subset(family: str, way: str, plan: str) -> bool:
    """One plan for each family and way; neighbours get different ones. A compiled step takes seconds, half of the time
    of all ways, and what is ours in its graph is the same in families that take no way of their own."""
    if way == COMPILED and family not in models.APART:
        return False
    place = models.BUILDERS.index(family) + list(WAYS).index(way)
    return list(PLANS)[place % len(PLANS)] == plan


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "plan" in metafunc.fixturenames:
        chosen = [cell for cell in cells() if metafunc.config.getoption("--matrix") or in_fast_subset(*cell)]
        metafunc.parametrize(("family", "way", "plan"), chosen)


def test_equals_the_masked_oracle(
    family: str, way: str, plan: str, pytestconfig: pytest.Config, matrix_record: dict[str, dict[str, float]]
) -> None:
    whole = pytestconfig.getoption("--matrix") is not None
    prompts = prompts_of(family, way)
    for attention in ("sdpa", "eager") if whole else ("sdpa",):
        for prompt in prompts if whole else prompts[:1]:
            worst = WAYS[way].check(_case(family, attention), prompt, PLANS[plan])
            own = matrix_record.setdefault(family, {})
            own[way] = max(own.get(way, 0.0), worst)
            assert worst <= TOLERANCE, f"{attention}, {prompt}: differs by {worst:.2e}"


@pytest.mark.parametrize(("family", "way"), list(EXCLUDED))
def test_what_is_excluded_fails_without_reduction(family: str, way: str) -> None:
    """Once it no longer does, its line in ``EXCLUDED`` goes."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        WAYS[way].check(_case(family, "sdpa"), WAYS[way].prompts[0], FrameFusion(keep=1.0))
    assert not isinstance(caught.value, AssertionError)


@pytest.mark.parametrize("family", sorted({family for family, _ in ALONE}))
def test_what_is_checked_alone_is_wrong_without_reduction(family: str) -> None:
    """Once it no longer is, its line in ``ALONE`` goes."""
    case = _case(family, "sdpa")
    inputs = case.inputs(PROMPTS["ragged"](case))
    expected = generate(case, inputs, max_new_tokens=1).logits[0]
    for options in ({"do_sample": True, "num_return_sequences": 2}, {"num_beams": 2}):
        got = generate(case, inputs, max_new_tokens=1, **options).logits[0]
        assert float((got[::2] - expected).abs().max()) > TOLERANCE
