from __future__ import annotations

from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framefusion.reduction.selectors import floc
from framefusion.reduction.selectors.candidates import Candidates
from tests.reduction.selectors.given import cosine, meets, members, nasty, videos


def facility_location(similarity: list[list[float]], chosen: list[int]) -> float:
    """The paper's function of a set that is not empty."""
    return sum(max(row[j] for j in chosen) for row in similarity)


def greedy_choices(candidates: Candidates) -> dict[int, list[set[int]]]:
    """For each segment, step by step: the tokens that add the most to those chosen before, but for rounding."""
    x, answer = candidates.features.double(), floc.select(candidates).tolist()
    choices = {}
    for segment, count in candidates.budgets.items():
        own = members(candidates, segment)
        similarity = [[cosine(x[i], x[j]) for j in own] for i in own]
        order = [own.index(i) for i in answer if i in own]
        steps = []
        for t in range(count):
            left = [j for j in range(len(own)) if j not in order[:t]]
            values = {j: facility_location(similarity, [*order[:t], j]) for j in left}
            best = max(values.values())
            steps.append({own[j] for j in left if values[j] >= best - 1e-9})
        choices[segment] = steps
    return choices


@given(videos(), st.sampled_from([0, 1 << 27]), st.sampled_from([1, 3, 32]))
def test_as_the_paper_has_it(candidates: Candidates, held: int, batch: int) -> None:
    with mock.patch.multiple(floc, HELD=held, BATCH=batch):
        chosen = floc.select(candidates)
        choices = greedy_choices(candidates)
    assert meets(candidates, chosen)
    for segment, steps in choices.items():
        own = [i for i in chosen.tolist() if int(candidates.segments[i]) == segment]
        assert all(i in best for i, best in zip(own, steps, strict=True))


@given(videos(), st.integers(0, 99))
def test_zeros_and_twins(candidates: Candidates, seed: int) -> None:
    assert meets(candidates, floc.select(nasty(candidates, seed)))


def test_old_gains_are_looked_at_again_only_where_they_may_win(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    gains, looked = floc._gains, []
    monkeypatch.setattr(floc, "_gains", lambda *given: looked.append(len(given[2])) or gains(*given))
    floc.facility_location(features, 40)
    assert sum(looked) < 0.5 * 400 * 40


def test_equal_gains_go_to_the_lower_index() -> None:
    features = torch.eye(3).repeat(2, 1)
    assert floc.facility_location(features, 6).tolist() == [0, 1, 2, 3, 4, 5]
