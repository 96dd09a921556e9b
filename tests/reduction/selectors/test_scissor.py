from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from framefusion.reduction.selectors import scissor
from framefusion.reduction.selectors.candidates import Candidates
from tests.reduction.selectors.given import agree, cosine, frames_of, nasty, stays_finite, stilled, videos


def components(x: list[torch.Tensor], threshold: float) -> list[list[int]]:
    """The connected components of the graph of cosines above the threshold."""
    near = [[cosine(a, b) > threshold for b in x] for a in x]
    left, found = list(range(len(x))), []
    while left:
        reached = [left[0]]
        for i in reached:
            reached += [j for j in left if j not in reached and near[i][j]]
        found.append(sorted(reached))
        left = [i for i in left if i not in reached]
    return found


def mean(x: list[torch.Tensor], own: list[int]) -> torch.Tensor:
    return torch.stack([x[i] for i in own]).mean(0)


def of_frames(x: torch.Tensor, frames: list[list[int]], threshold: float) -> list[list[int]]:
    """The components of the frames, as tokens."""
    return [[frame[i] for i in own] for frame in frames for own in components([x[i] for i in frame], threshold)]


def by_the_paper(candidates: Candidates) -> tuple[dict[int, int], dict[int, torch.Tensor]]:
    """Where every token goes, -1 for nowhere, and what the kept ones become; in float64."""
    x = candidates.features.double()
    goes: dict[int, int] = {}
    new: dict[int, torch.Tensor] = {}
    for segment, count in candidates.budgets.items():
        frames = frames_of(candidates, segment)
        everyone = [i for frame in frames for i in frame]
        goes |= dict.fromkeys(everyone, -1)
        if not count:
            continue
        low, high, inside = 0, 128, [[i] for i in everyone]
        while high - low > 1:
            middle = (low + high) // 2
            groups = of_frames(x, frames, middle / 128)
            enough = len(components([x[own].mean(0) for own in groups], middle / 128)) >= count
            low, high, inside = (low, middle, groups) if enough else (middle, high, inside)
        means = [x[own].mean(0) for own in inside]
        similarity = [[cosine(a, b) for b in means] for a in means]
        joined = [[i] for i in range(len(means))]
        while len(joined) > count:
            alike = {
                (m, n): max(similarity[i][j] for i in a for j in b)
                for m, a in enumerate(joined)
                for n, b in enumerate(joined)
                if m < n
            }
            m, n = max(alike, key=lambda pair: alike[pair])
            joined[m] += joined.pop(n)
        final = [(min(i for g in group for i in inside[g]), mean(means, group)) for group in joined]
        comes: dict[int, list[int]] = {kept: [] for kept, _ in final}
        for i in everyone:
            goes[i] = max(final, key=lambda own: cosine(x[i], own[1]))[0]
            comes[goes[i]].append(i)
        goes |= {kept: kept for kept, _ in final}
        new |= {kept: (value + sum(x[i] for i in comes[kept])) / (1 + len(comes[kept])) for kept, value in final}
    return goes, new


@given(videos(), st.sampled_from([1.0, 0.3, 0.1]))
def test_as_the_paper_has_it(candidates: Candidates, change: float) -> None:
    candidates = stilled(candidates, change)
    agree(candidates, scissor.select(candidates), by_the_paper(candidates))


@given(videos(), st.integers(0, 99))
def test_zeros_and_twins(candidates: Candidates, seed: int) -> None:
    candidates = nasty(candidates, seed)
    stays_finite(candidates, scissor.select(candidates))


def test_a_still_video_keeps_one_token_for_each_thing() -> None:
    things = torch.eye(4, dtype=torch.float64)[torch.tensor([0, 0, 1, 2, 2, 3])]
    candidates = Candidates(
        things.repeat(5, 1), None, torch.zeros(30, dtype=torch.long), torch.arange(30) // 6, torch.arange(30) % 6,
        (5, 2, 3), {0: 4},
    )  # fmt: skip
    selected = scissor.select(candidates)
    assert selected.indices.tolist() == [0, 2, 3, 5]
    assert selected.features is not None
    assert torch.allclose(selected.features, torch.eye(4, dtype=torch.float64))
