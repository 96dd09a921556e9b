from __future__ import annotations

import math
from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from framefusion.reduction.selectors import unicomp
from framefusion.reduction.selectors.candidates import Candidates
from tests.reduction.selectors.given import (
    agree,
    cosine,
    frames_of,
    largest_remainder,
    nasty,
    stays_finite,
    stilled,
    videos,
)


def fused_groups(
    x: torch.Tensor, frames: list[list[int]], patches: list[int], count: int
) -> list[dict[int, list[int]]]:
    """The tokens of each patch of each group of frames."""
    means = [x[frame].mean(0) for frame in frames]
    for longest in range(sum(map(len, frames)) // count, 0, -1):
        groups: list[list[int]] = []
        for t in range(len(frames)):
            joins = groups and len(groups[-1]) < longest
            if joins and 1 - cosine(means[groups[-1][0]], means[t]) <= 0.005:
                groups[-1].append(t)
            else:
                groups.append([t])
        fused: list[dict[int, list[int]]] = []
        for group in groups:
            of_patch: dict[int, list[int]] = {}
            for i in [i for t in group for i in frames[t]]:
                of_patch.setdefault(patches[i], []).append(i)
            fused.append(of_patch)
        if sum(map(len, fused)) >= count:
            break
    return fused


def by_the_paper(candidates: Candidates) -> tuple[dict[int, int], dict[int, torch.Tensor]] | None:
    """Where every token goes, -1 for nowhere, and what the kept ones become; in float64.

    None where two tokens of a frame are equally rare but for rounding.
    """
    x = candidates.features.double()
    goes, new = {}, {}
    for segment, count in candidates.budgets.items():
        frames = frames_of(candidates, segment)
        goes |= {i: -1 for frame in frames for i in frame}
        if not count:
            continue
        fused = fused_groups(x, frames, candidates.patches.tolist(), count)
        # A fused token is known by its first one; a frame holds those of one fused frame, by the first ones' frames.
        value = {own[0]: x[own].mean(0) for group in fused for own in group.values()}
        becomes = {i: own[0] for group in fused for own in group.values() for i in own}
        groups = [kept for frame in frames if (kept := [i for i in frame if i in value])]
        means = [sum(value[i] for i in group) / len(group) for group in groups]
        s = [sum(cosine(a, b) for b in means) / len(means) for a in means]
        raised = [math.exp(math.sqrt(len(s)) * (sum(s) / len(s) - own)) for own in s]
        share = [r / sum(raised) for r in raised]
        owner, order, absorbing = {}, [], []
        for group in groups:
            common = {i: sum(cosine(value[i], value[j]) for j in group) / len(group) for i in group}
            spread = sorted(common.values())
            if any(b - a < 1e-9 for a, b in pairwise(spread)):
                return None
            visited: set[int] = set()
            for i in sorted(group, key=lambda i: common[i]):
                if i not in visited:
                    near = [j for j in group if j == i or 1 - cosine(value[i], value[j]) < 0.2]
                    owner |= {j: i for j in near if j not in visited}
                    visited |= set(near)
                    new[i] = (value[i] + sum(value[j] for j in near) / len(near)) / 2
            rarest = sorted(group, key=lambda i: common[i])
            order.append([i for i in rarest if owner[i] == i] + [i for i in rarest if owner[i] != i])
            absorbing.append(sum(owner[i] == i for i in group))
        missing = count - sum(absorbing)
        if missing > 0:
            capacities = [len(group) - own for group, own in zip(groups, absorbing, strict=True)]
            more = largest_remainder(share, missing, capacities)
            counts = [a + b for a, b in zip(absorbing, more, strict=True)]
        else:
            capacities = [min(own, max(1, 2 * (count // len(groups)))) for own in absorbing]
            counts = largest_remainder(share, count, capacities if sum(capacities) >= count else absorbing)
        kept = {i for own, budget in zip(order, counts, strict=True) for i in own[:budget]}
        for i in becomes:
            first = becomes[i]
            goes[i] = first if first in kept else owner[first] if owner[first] in kept else -1
        new |= {i: value[i] for i in kept if owner[i] != i}
    return goes, new


@given(videos(), st.sampled_from([1.0, 0.1, 0.02]))
def test_as_the_paper_has_it(candidates: Candidates, change: float) -> None:
    candidates = stilled(candidates, change)
    agree(candidates, unicomp.select(candidates), by_the_paper(candidates))


@given(videos(), st.integers(0, 99))
def test_zeros_and_twins(candidates: Candidates, seed: int) -> None:
    candidates = nasty(candidates, seed)
    stays_finite(candidates, unicomp.select(candidates))


def test_frames_that_are_alike_fuse_as_far_as_the_budget_lets_them() -> None:
    frame = torch.eye(10, dtype=torch.float64)
    candidates = Candidates(
        frame.repeat(8, 1), None, torch.zeros(80, dtype=torch.long), torch.arange(80) // 10, torch.arange(80) % 10,
        (8, 2, 5), {0: 20},
    )  # fmt: skip
    assert unicomp.select(candidates).indices.tolist() == [*range(10), *range(40, 50)]


def video(frames: list[torch.Tensor], budget: int) -> Candidates:
    """Whole frames of one row."""
    count, size = len(frames), len(frames[0])
    everyone = torch.arange(count * size)
    zeros = torch.zeros_like(everyone)
    return Candidates(
        torch.cat(frames), None, zeros, everyone // size, everyone % size, (count, 1, size), {0: budget}
    )  # fmt: skip


def test_a_group_goes_by_its_first_frame() -> None:
    """A slow drift: each frame is 4 degrees from the next, 1 - cos = 0.0024; the second next is 0.0097 away."""
    turns = torch.deg2rad(4.0 * torch.arange(6, dtype=torch.float64))
    frames = [torch.stack([turn.cos(), turn.sin()])[None].repeat(3, 1) for turn in turns]
    given = video(frames, 3)
    fused = unicomp._fuse(given.features, list(torch.arange(18).split(3)), given.patches, 3)
    assert fused.tolist() == [t // 2 * 6 + i for t in range(6) for i in range(3)]


def test_a_frame_gets_at_most_twice_the_mean() -> None:
    part = unicomp._Frame(torch.arange(20), torch.arange(20), 20, torch.zeros(20, 1))
    assert unicomp._allocate([0.7, 0.1, 0.1, 0.1], [part] * 4, 20) == [10, 4, 3, 3]
    # Where that would not spend the budget it gets more.
    few = part._replace(absorbing=1)
    assert unicomp._allocate([0.7, 0.1, 0.1, 0.1], [part, few, few, few], 20) == [17, 1, 1, 1]
