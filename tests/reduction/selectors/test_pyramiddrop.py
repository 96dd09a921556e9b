from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framefusion.evaluation.methods import METHODS
from framefusion.reduction.selectors import pyramiddrop, uniform
from framefusion.reduction.selectors.candidates import Candidates
from tests.reduction.selectors.given import meets, members, videos, with_relevance


@given(videos(), st.integers(0, 99))
def test_what_is_attended_to_most_stays(candidates: Candidates, seed: int) -> None:
    candidates = with_relevance(candidates, seed)._replace(layer=7)
    assert candidates.relevance is not None
    attention = candidates.relevance.tolist()
    chosen = pyramiddrop.select(candidates)
    assert meets(candidates, chosen)
    for segment, count in candidates.budgets.items():
        own = members(candidates, segment)
        expected = sorted(own, key=lambda i: (-attention[i], i))[:count]
        assert set(chosen.tolist()) & set(own) == set(expected)


@given(videos())
def test_before_any_attention_tokens_are_evenly_spaced(candidates: Candidates) -> None:
    chosen = pyramiddrop.select(candidates)
    assert meets(candidates, chosen)
    assert torch.equal(chosen, uniform.select(candidates))


def test_the_authors_own_budget_has_the_authors_own_stages() -> None:
    """Layers 8, 16 and 24 of 32 with half of what was there, and all tokens before."""
    budget = (1 + 0.5 + 0.25 + 0.125) / 4
    keep = METHODS["pyramiddrop"].settings(budget, 32).keep
    assert isinstance(keep, dict)
    assert list(keep) == [0, 8, 16, 24]
    assert list(keep.values()) == pytest.approx([1, 0.5, 0.25, 0.125])
    smaller = METHODS["pyramiddrop"].settings(budget / 2, 32).keep
    assert isinstance(smaller, dict)
    assert list(smaller.values()) == pytest.approx([0.5, 0.25, 0.125, 0.0625])
