from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framefusion.reduction.selectors import SELECTORS, SPLIT_AT_INPUT, select, topk, uniform
from framefusion.reduction.selectors.candidates import Candidates, Selected
from framefusion.reduction.selectors.dpp import DPP, DPPOnce
from framefusion.selection import select_tokens

COSINES = DPP(gamma=None, later_frames=1.0)
"""The kernel of the textbook."""


def candidates(
    features: torch.Tensor, relevance: torch.Tensor | None, segments: torch.Tensor, budgets: dict[int, int]
) -> Candidates:
    """One row of tokens a frame each."""
    count = len(segments)
    return Candidates(
        features, relevance, segments, torch.arange(count), torch.zeros_like(segments), (count, 1, 1), budgets
    )


@pytest.mark.parametrize("name", list(SELECTORS))
@given(data=st.data())
def test_every_selector_meets_its_budgets(name: str, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 40))
    segments = torch.tensor(data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 50)))
    features, relevance = torch.randn(count, 6, generator=generator), torch.rand(count, generator=generator)
    ids, lengths = segments.unique(return_counts=True)
    budgets = {i: data.draw(st.integers(0, n)) for i, n in zip(ids.tolist(), lengths.tolist(), strict=True)}
    columns = data.draw(st.integers(1, 3))
    everyone = torch.arange(count)
    given = Candidates(
        features,
        relevance,
        segments,
        everyone // columns,
        everyone % columns,
        (-(-count // columns), 1, columns),
        budgets,
    )
    chosen = select(name, given)
    assert chosen.indices.dtype == torch.int64
    assert len(chosen.indices.unique()) == len(chosen.indices) == given.total
    if name not in SPLIT_AT_INPUT:
        assert {i: int((segments[chosen.indices] == i).sum()) for i in budgets} == budgets


def test_what_a_selector_returns_is_put_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    given = candidates(torch.zeros(4, 2), None, torch.tensor([0, 0, 0, 1]), {0: 2, 1: 0})
    features = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    target = torch.tensor([0, 0, 2, -1])
    monkeypatch.setitem(SELECTORS, "backwards", lambda _: Selected(torch.tensor([2, 0]), target, features))
    got = select("backwards", given)
    assert got.indices.tolist() == [0, 2]
    assert got.target is target
    assert got.features is not None
    assert got.features.tolist() == [[3.0, 4.0], [1.0, 2.0]]


def test_a_segment_that_was_not_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SELECTORS, "elsewhere", lambda _: torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="returned 1 distinct tokens of segment 1, asked for 0"):
        select("elsewhere", candidates(torch.zeros(4, 2), None, torch.tensor([0, 0, 0, 1]), {0: 1}))


def test_dpp_is_the_public_selection() -> None:
    features, relevance = torch.randn(30, 8), torch.rand(30)
    segments = torch.arange(30) // 10
    budgets = {0: 3, 1: 0, 2: 5}
    expected = select_tokens(features, relevance, segments, budgets)
    given = candidates(features, relevance, segments, budgets)
    assert torch.equal(COSINES(given), expected)


def test_topk_takes_the_most_relevant_with_ties_to_the_lower_index() -> None:
    relevance = torch.tensor([0.1, 0.9, 0.9, 0.2, 0.3])
    segments = torch.tensor([0, 0, 0, 1, 1])
    assert topk.select(candidates(torch.ones(5, 2), relevance, segments, {0: 2, 1: 1})).tolist() == [1, 2, 4]
    with pytest.raises(ValueError, match="selector 'topk' ranks by relevance, but there is none"):
        topk.select(candidates(torch.ones(5, 2), None, segments, {0: 1}))


def test_uniform_takes_the_middles_of_equal_intervals() -> None:
    segments = torch.tensor([0] * 10 + [1] * 3)
    assert uniform.select(candidates(torch.ones(13, 2), None, segments, {0: 2, 1: 1})).tolist() == [2, 7, 11]


def in_rounds(features: torch.Tensor, relevance: torch.Tensor, budget: int) -> set[int]:
    """One segment: the textbook greedy over what is left, until the budget is spent."""
    left, kept = list(range(len(features))), []
    while len(kept) < budget:
        rows = torch.tensor(left)
        asked = [budget - len(kept)]
        options = {"backend": "reference"}
        best = select_tokens(features[rows], relevance[rows], None, asked, exhausted="stop", **options)
        best = best if len(best) else select_tokens(features[rows], relevance[rows], None, asked, **options)
        kept += rows[best].tolist()
        left = [row for row in left if row not in kept]
    return set(kept)


@given(data=st.data())
def test_dpp_begins_again_when_the_kept_tokens_span_the_rest(data: st.DataObject) -> None:
    count, width = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 50)))
    features = torch.randn(count, width, generator=generator)
    features[data.draw(st.lists(st.integers(0, count - 1), max_size=5))] = 0
    relevance = torch.rand(count, generator=generator) + 0.5
    segments = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)))
    ids, lengths = segments.unique(return_counts=True)
    budgets = {i: data.draw(st.integers(0, n)) for i, n in zip(ids.tolist(), lengths.tolist(), strict=True)}
    found = select(COSINES, candidates(features, relevance, segments, budgets)).indices
    for segment, budget in budgets.items():
        mine = (segments == segment).nonzero().squeeze(-1)
        expected = {int(mine[row]) for row in in_rounds(features[mine], relevance[mine], budget)}
        assert set(found.tolist()) & set(mine.tolist()) == expected


def test_dpp_spreads_what_is_kept_beyond_the_rank() -> None:
    """Six tokens of one direction, then six of another: one greedy takes the first of each, then the first ones."""
    given = candidates(torch.eye(2).repeat_interleave(6, 0), None, torch.zeros(12, dtype=torch.long), {0: 6})
    assert select(COSINES, given).indices.tolist() == [0, 1, 2, 6, 7, 8]
    assert select(DPPOnce(gamma=None, later_frames=1.0), given).indices.tolist() == [0, 1, 2, 3, 4, 6]
