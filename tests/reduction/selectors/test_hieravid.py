from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framefusion.evaluation.methods import METHODS
from framefusion.reduction.merging import merge_into
from framefusion.reduction.selectors import SELECTORS, select
from framefusion.reduction.selectors.candidates import Candidates, Selected
from framefusion.reduction.selectors.dpp import DPP
from framefusion.reduction.selectors.hieravid import HieraVid
from tests.reduction.selectors.given import cosine, meets, nasty, videos, with_relevance


def by_the_paper(candidates: Candidates) -> dict[int, list[int]]:
    """The kept tokens and what has merged into each, one merge after the other; in float64."""
    x, frames, patches = candidates.features.double(), candidates.frames.tolist(), candidates.patches.tolist()
    before: dict[int, int] = {}
    for i in range(len(x)):
        earlier = [j for j in range(len(x)) if patches[j] == patches[i] and frames[j] < frames[i]]
        if earlier:
            before[i] = max(earlier, key=lambda j: frames[j])
    ranked = sorted(before, key=lambda i: (-cosine(x[i], x[before[i]]), i))
    merging = set(ranked[: len(x) - candidates.total])
    runs: dict[int, list[int]] = {}
    for i in range(len(x)):
        head = i
        while head in merging:
            head = before[head]
        runs.setdefault(head, []).append(i)
    heads = sorted(runs)
    if len(heads) > candidates.total:
        spaced = [int((k + 0.5) * len(heads) / candidates.total) for k in range(candidates.total)]
        heads = [heads[k] for k in spaced]
    return {head: runs[head] for head in heads}


@given(videos())
def test_before_the_decoder_the_most_similar_merge(candidates: Candidates) -> None:
    selected = HieraVid()(candidates)
    assert isinstance(selected, Selected)
    assert selected.target is not None
    runs = by_the_paper(candidates)
    assert selected.indices.tolist() == list(runs)
    goes = {i: head for head, run in runs.items() for i in run}
    assert selected.target.tolist() == [goes.get(i, -1) for i in range(len(candidates.features))]
    merged = merge_into(candidates.features, selected.target)
    for head, row in zip(runs, merged.features, strict=True):
        torch.testing.assert_close(row, candidates.features[runs[head]].mean(0))
    assert torch.equal(select("hieravid", candidates).indices, selected.indices)


@given(videos(), st.integers(0, 99))
def test_inside_the_decoder_a_dpp_of_attention_and_diversity(candidates: Candidates, seed: int) -> None:
    candidates = with_relevance(candidates, seed)._replace(layer=7)
    chosen = HieraVid(gamma=None)(candidates)
    assert meets(candidates, chosen)
    expected = DPP(gamma=None)(candidates)
    assert isinstance(chosen, torch.Tensor)
    assert isinstance(expected, torch.Tensor)
    assert torch.equal(chosen, expected)


@given(videos(), st.integers(0, 99))
def test_zeros_and_twins(candidates: Candidates, seed: int) -> None:
    candidates = nasty(candidates, seed)
    selected = select("hieravid", candidates)
    assert len(selected.indices) == candidates.total
    assert selected.target is not None
    assert merge_into(candidates.features, selected.target).features.isfinite().all()


def test_a_wrong_total_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = torch.zeros(4, dtype=torch.long)
    candidates = Candidates(
        torch.eye(4), None, torch.tensor([0, 0, 1, 1]), zeros, torch.arange(4), (1, 2, 2), {0: 1, 1: 1}
    )
    monkeypatch.setitem(SELECTORS, "hieravid", lambda _: torch.tensor([0, 1]))
    assert select("hieravid", candidates).indices.tolist() == [0, 1]
    for wrong in ([0], [0, 1, 2], [0, 0]):
        monkeypatch.setitem(SELECTORS, "hieravid", lambda _, wrong=wrong: torch.tensor(wrong))
        with pytest.raises(ValueError, match=r"returned \d distinct tokens in all, asked for 2"):
            select("hieravid", candidates)
    monkeypatch.setitem(SELECTORS, "hieravid", lambda _: torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="distinct tokens of segment"):
        select("hieravid", candidates._replace(layer=7))


def test_the_authors_own_budget_has_the_authors_own_stages() -> None:
    budget = (0.5 + 0.25 + 0.075 + 0.015) / 4
    keep = METHODS["hieravid"].settings(budget, 28).keep
    assert isinstance(keep, dict)
    assert list(keep) == [0, 7, 14, 21]
    assert list(keep.values()) == pytest.approx([0.5, 0.25, 0.075, 0.015])
