from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from framefusion.reduction.selectors import v_cast
from framefusion.reduction.selectors.candidates import Candidates
from tests.reduction.selectors.given import cosine, frames_of, largest_remainder, meets, nasty, stilled, videos


def by_the_paper(candidates: Candidates) -> set[int]:
    """Frame by frame and token by token, in float64."""
    x, chosen = candidates.features.double(), set()
    for segment, count in candidates.budgets.items():
        groups = frames_of(candidates, segment)
        means = [x[group].mean(0) for group in groups]
        means = [mean / mean.norm() for mean in means]
        curvature = [1.0] * len(groups)
        for t in range(1, len(groups) - 1):
            curvature[t] = 1 - cosine(means[t] - means[t - 1], means[t + 1] - means[t])
        raised = [math.exp(c / 0.7) for c in curvature]
        counts = largest_remainder([r / sum(raised) for r in raised], count, [len(group) for group in groups])
        for group, mean, budget in zip(groups, means, counts, strict=True):
            norms = {i: float(x[i].norm()) for i in group}
            low, high = min(norms.values()), max(norms.values())
            score = {
                i: 1 - cosine(x[i], mean) + ((norms[i] - low) / (high - low) if high > low else 0.0) for i in group
            }
            chosen |= set(sorted(group, key=lambda i: (-score[i], i))[:budget])
    return chosen


@given(videos(), st.sampled_from([1.0, 0.1]))
def test_as_the_paper_has_it(candidates: Candidates, change: float) -> None:
    candidates = stilled(candidates, change)
    chosen = v_cast.select(candidates)
    assert meets(candidates, chosen)
    assert set(chosen.tolist()) == by_the_paper(candidates)


@given(videos(), st.integers(0, 99))
def test_zeros_and_twins(candidates: Candidates, seed: int) -> None:
    assert meets(candidates, v_cast.select(nasty(candidates, seed)))


def test_a_frame_where_the_path_turns_gets_more() -> None:
    """Five frames on a straight way, then back: only the turn has another curvature than 0 between the ends."""
    towards = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.2, 0.1], dtype=torch.float64)
    means = torch.stack([towards.cos(), towards.sin()], dim=1)
    features = means.repeat_interleave(20, 0) + 0.01 * torch.randn(120, 2, generator=torch.Generator().manual_seed(0))
    candidates = Candidates(
        features, None, torch.zeros(120, dtype=torch.long), torch.arange(120) // 20, torch.arange(120) % 20, (6, 4, 5),
        {0: 60},
    )  # fmt: skip
    kept = torch.bincount(candidates.frames[v_cast.select(candidates)])
    assert kept[3] == kept.max() > 2 * kept[1]
