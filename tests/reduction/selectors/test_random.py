from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from framefusion.reduction.selectors import random
from framefusion.reduction.selectors.candidates import Candidates
from tests.reduction.selectors.given import meets, videos


def of(count: int, keep: int, seed: int) -> list[int]:
    zeros = torch.zeros(count, dtype=torch.long)
    return random.select(
        Candidates(torch.zeros(count, 1), None, zeros, zeros, zeros, (1, 1, count), {0: keep}, seed)
    ).tolist()


@given(videos(), st.integers(-3, 1 << 40))
def test_budgets_are_met_whatever_was_drawn_before(candidates: Candidates, seed: int) -> None:
    seeded = candidates._replace(seed=seed)
    chosen = random.select(seeded)
    assert meets(seeded, chosen)
    torch.manual_seed(1)
    torch.rand(3)
    other = seeded._replace(relevance=torch.rand(len(candidates.features)))
    assert torch.equal(random.select(other), chosen)


def test_every_token_is_as_likely_as_any_other() -> None:
    draws = torch.tensor([of(20, 5, seed) for seed in range(2000)])
    share = torch.bincount(draws.flatten(), minlength=20) / 2000
    # Five standard deviations of a share of 1/4 over 2000 draws.
    assert (share - 0.25).abs().max() < 5 * (0.25 * 0.75 / 2000) ** 0.5


def test_another_video_is_drawn_differently() -> None:
    zeros = torch.zeros(100, dtype=torch.long)
    drawn = {
        tuple(random.select(Candidates(torch.randn(100, 8), None, zeros, zeros, zeros, (1, 1, 100), {0: 30})).tolist())
        for _ in range(5)
    }
    assert len(drawn) == 5


def test_seeds_sizes_and_totals_draw_differently() -> None:
    assert of(100, 30, 0) == of(100, 30, 0)
    assert of(100, 30, 0) != of(100, 30, 1)
    assert of(100, 30, 0) != of(101, 30, 0)
    assert of(100, 30, 0) != of(100, 31, 0)[:30]
