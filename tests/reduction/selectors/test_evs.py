from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from framefusion.reduction.selectors import evs
from framefusion.reduction.selectors.candidates import Candidates
from tests.reduction.selectors.given import cosine, meets, members, nasty, videos


def by_the_paper(candidates: Candidates) -> set[int]:
    """Frame by frame and patch by patch, in float64."""
    x, frames, patches = candidates.features.double(), candidates.frames.tolist(), candidates.patches.tolist()
    dissimilarity = []
    for i, (frame, patch) in enumerate(zip(frames, patches, strict=True)):
        before = [j for j in range(len(frames)) if patches[j] == patch and frames[j] < frame]
        dissimilarity.append(1 - cosine(x[i], x[max(before, key=lambda j: frames[j])]) if before else float("inf"))
    chosen: set[int] = set()
    for segment, count in candidates.budgets.items():
        own = members(candidates, segment)
        first = [i for i in own if dissimilarity[i] == float("inf")]
        if count < len(first):
            chosen |= {first[(2 * step + 1) * len(first) // (2 * count)] for step in range(count)}
        else:
            chosen |= set(sorted(own, key=lambda i: (-dissimilarity[i], i))[:count])
    return chosen


@given(videos())
def test_as_the_paper_has_it(candidates: Candidates) -> None:
    chosen = evs.select(candidates)
    assert meets(candidates, chosen)
    assert set(chosen.tolist()) == by_the_paper(candidates)


@given(videos(), st.integers(0, 99))
def test_zeros_and_twins(candidates: Candidates, seed: int) -> None:
    assert meets(candidates, evs.select(nasty(candidates, seed)))


def test_the_first_frame_stays_before_any_other_token() -> None:
    features = torch.eye(4).repeat(3, 1)
    features[6] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    frames, patches = torch.arange(12) // 4, torch.arange(12) % 4
    candidates = Candidates(features, None, torch.zeros(12, dtype=torch.long), frames, patches, (3, 2, 2), {0: 6})
    # Token 6 differs from token 2, and token 10 differs from token 6.
    assert sorted(evs.select(candidates).tolist()) == [0, 1, 2, 3, 6, 10]
    assert sorted(evs.select(candidates._replace(budgets={0: 2})).tolist()) == [1, 3]
