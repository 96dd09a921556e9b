from __future__ import annotations

import math
from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from framefusion.reduction.selectors import flashvid, topk
from framefusion.reduction.selectors.candidates import Candidates
from tests.reduction.selectors.given import (
    agree,
    cosine,
    frames_of,
    largest_remainder,
    meets,
    members,
    nasty,
    stilled,
    videos,
    with_relevance,
)
from tests.reduction.selectors.test_clusters import textbook_scores


def evenly(groups: list[list[int]], total: int) -> list[int]:
    sizes = [len(group) for group in groups]
    return largest_remainder([float(n) for n in sizes], total, sizes)


def attention_and_diversity(
    x: torch.Tensor, relevance: torch.Tensor | None, groups: list[list[int]], total: int
) -> set[int]:
    """Greedy max–min of the calibrated distances in each frame."""
    means = [x[group].mean(0) for group in groups]
    chosen: set[int] = set()
    for group, budget in zip(groups, evenly(groups, total), strict=True):
        scale = {
            j: float(sum(x[j] @ mean for mean in means) / len(means))
            * (1.0 if relevance is None else float(relevance[j]))
            for j in group
        }
        distance = {(i, j): scale[j] * (1 - cosine(x[i], x[j])) for i in group for j in group}
        kept: list[int] = []
        while len(kept) < budget:
            left = [j for j in group if j not in kept]
            if kept:
                nearest = {j: min(distance[i, j] for i in kept) for j in left}
            else:
                others = {j: [1 - cosine(x[i], x[j]) for i in group if i != j] for j in group}
                nearest = {j: scale[j] * min(others[j], default=1.0) for j in group}
            kept.append(max(left, key=lambda j: nearest[j]))
        chosen |= set(kept)
    return chosen


def by_the_paper(candidates: Candidates) -> tuple[dict[int, int], dict[int, torch.Tensor]] | None:
    """Where every token goes, -1 for nowhere, and what the kept ones become; in float64.

    None where a frame keeps one of two roots, which are equally dense but for rounding.
    """
    x = candidates.features.double()
    goes: dict[int, int] = {}
    new: dict[int, torch.Tensor] = {}
    for segment, count in candidates.budgets.items():
        groups = frames_of(candidates, segment)
        goes |= dict.fromkeys(members(candidates, segment), -1)
        first = math.ceil(0.7 * count)
        chosen = attention_and_diversity(x, candidates.relevance, groups, first)
        goes |= {i: i for i in chosen}
        new |= {i: x[i] for i in chosen}
        budget = count - first
        rest = [[i for i in group if i not in chosen] for group in groups]
        if not budget:
            continue
        similar = {}
        for before, frame in pairwise(rest):
            for i in frame if before else []:
                parent = max(before, key=lambda j: cosine(x[i], x[j]))
                similar[i] = (cosine(x[i], x[parent]), parent)
        may = sorted((i for i, (value, _) in similar.items() if value > 0.8), key=lambda i: (-similar[i][0], i))
        joins = {i: similar[i][1] for i in may[: sum(map(len, rest)) - budget]}
        trees: dict[int, list[int]] = {}
        for i in [i for frame in rest for i in frame]:
            root = i
            while root in joins:
                root = joins[root]
            trees.setdefault(root, []).append(i)
        value = {root: x[own].mean(0) for root, own in trees.items()}
        roots = [[i for i in frame if i in trees] for frame in rest]
        for group, own in zip(roots, evenly(roots, budget), strict=True):
            if not own:
                continue
            if own == 1 < 2 == len(group):
                return None
            y = torch.stack([value[i] for i in group])
            score = textbook_scores(y, min(7, own))
            peaks = sorted(range(len(group)), key=lambda j: (-score[j], j))[:own]
            cluster: dict[int, list[int]] = {p: [] for p in peaks}
            for j in range(len(group)):
                cluster[j if j in peaks else min(peaks, key=lambda p: float((y[j] - y[p]).norm()))].append(j)
            for p, inside in cluster.items():
                new[group[p]] = y[inside].mean(0)
                goes |= {i: group[p] for j in inside for i in trees[group[j]]}
    return goes, new


@given(videos(whole=True), st.sampled_from([1.0, 0.3, 0.1]), st.booleans(), st.integers(0, 99))
def test_as_the_paper_has_it(candidates: Candidates, change: float, relevance: bool, seed: int) -> None:
    candidates = stilled(candidates, change)
    candidates = with_relevance(candidates, seed) if relevance else candidates
    agree(candidates, flashvid.select(candidates), by_the_paper(candidates))


@given(videos(), st.sampled_from([1.0, 0.1]))
def test_with_holes(candidates: Candidates, change: float) -> None:
    candidates = stilled(candidates, change)
    agree(candidates, flashvid.select(candidates), by_the_paper(candidates))


@given(videos(), st.integers(0, 99), st.booleans())
def test_zeros_and_twins(candidates: Candidates, seed: int, relevance: bool) -> None:
    candidates = nasty(candidates, seed)
    selected = flashvid.select(with_relevance(candidates, seed) if relevance else candidates)
    assert meets(candidates, selected)
    assert selected.features is None or selected.features.isfinite().all()


def test_inside_the_decoder_attention_alone_decides() -> None:
    generator = torch.Generator().manual_seed(0)
    zeros = torch.zeros(10, dtype=torch.long)
    candidates = Candidates(
        torch.randn(10, 4, generator=generator), torch.rand(10, generator=generator), zeros, zeros, torch.arange(10),
        (1, 3, 4), {0: 4},
    )  # fmt: skip
    selected = flashvid.select(candidates)
    assert selected.target is None
    assert set(selected.indices.tolist()) == set(topk.select(candidates).tolist())
    assert flashvid.select(candidates._replace(relevance=None)).target is not None
