from __future__ import annotations

from unittest import mock

import torch
from hypothesis import given
from hypothesis import strategies as st

from framefusion.reduction.selectors import divprune
from framefusion.reduction.selectors.candidates import Candidates
from tests.reduction.selectors.given import cosine, meets, members, nasty, videos


def by_the_paper(candidates: Candidates) -> list[int]:
    """Algorithm 1 on the full distance matrix, in float64."""
    x, chosen = candidates.features.double(), []
    for segment, count in candidates.budgets.items():
        rest, kept = members(candidates, segment), []
        distance = {(i, j): 1 - cosine(x[i], x[j]) for i in rest for j in rest}
        while len(kept) < count:
            if kept:
                value = {i: min(distance[i, j] for j in kept) for i in rest}
            else:
                value = {i: min((distance[i, j] for j in rest if j != i), default=1.0) for i in rest}
            best = max(value.values())
            kept.append(min(i for i in rest if value[i] >= best - 1e-12))
            rest.remove(kept[-1])
        chosen += kept
    return chosen


@given(videos(), st.sampled_from([1, 7, 1 << 22]))
def test_as_the_paper_has_it(candidates: Candidates, block: int) -> None:
    with mock.patch.object(divprune, "BLOCK", block):
        chosen = divprune.select(candidates)
    assert meets(candidates, chosen)
    if len(candidates.features) > 2:
        assert smallest_distances(candidates, chosen.tolist()) == smallest_distances(
            candidates, by_the_paper(candidates)
        )


def smallest_distances(candidates: Candidates, order: list[int]) -> list[float]:
    """What each greedy step gained, which near-ties do not change."""
    x, of = candidates.features.double(), candidates.segments.tolist()
    return [
        round(min((1 - cosine(x[i], x[j]) for j in order[:t] if of[i] == of[j]), default=2.0), 9)
        for t, i in enumerate(order)
    ]


def test_distinct_directions_in_the_paper_s_order() -> None:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    zeros = torch.zeros(40, dtype=torch.long)
    candidates = Candidates(features, None, zeros, zeros, torch.arange(40), (1, 5, 8), {0: 12})
    assert divprune.select(candidates).tolist() == by_the_paper(candidates)


@given(videos(), st.integers(0, 99))
def test_zeros_and_twins(candidates: Candidates, seed: int) -> None:
    assert meets(candidates, divprune.select(nasty(candidates, seed)))
