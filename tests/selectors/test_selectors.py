from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framefusion.selection import select_tokens
from framefusion.selectors import SELECTORS, topk, uniform


@pytest.mark.parametrize("name", list(SELECTORS))
@given(data=st.data())
def test_every_selector_meets_its_budgets(name: str, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 40))
    segments = torch.tensor(data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 50)))
    features, relevance = torch.randn(count, 6, generator=generator), torch.rand(count, generator=generator)
    ids, lengths = segments.unique(return_counts=True)
    budgets = {i: data.draw(st.integers(0, n)) for i, n in zip(ids.tolist(), lengths.tolist(), strict=True)}
    chosen = SELECTORS[name](features, relevance, segments, budgets)
    assert chosen.dtype == torch.int64
    assert len(chosen.unique()) == len(chosen)
    assert {i: int((segments[chosen] == i).sum()) for i in budgets} == budgets


def test_dpp_is_the_public_selection() -> None:
    features, relevance = torch.randn(30, 8), torch.rand(30)
    segments = torch.arange(30) // 10
    budgets = {0: 3, 1: 0, 2: 5}
    expected = select_tokens(features, relevance, segments, budgets)
    assert torch.equal(SELECTORS["dpp"](features, relevance, segments, budgets), expected)


def test_topk_takes_the_most_relevant_with_ties_to_the_lower_index() -> None:
    relevance = torch.tensor([0.1, 0.9, 0.9, 0.2, 0.3])
    segments = torch.tensor([0, 0, 0, 1, 1])
    assert topk.select(torch.ones(5, 2), relevance, segments, {0: 2, 1: 1}).tolist() == [1, 2, 4]
    with pytest.raises(ValueError, match="selector 'topk' ranks by relevance, but there is none"):
        topk.select(torch.ones(5, 2), None, segments, {0: 1})


def test_uniform_takes_the_middles_of_equal_intervals() -> None:
    segments = torch.tensor([0] * 10 + [1] * 3)
    assert uniform.select(torch.ones(13, 2), None, segments, {0: 2, 1: 1}).tolist() == [2, 7, 11]
