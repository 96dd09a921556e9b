"""Which patches merge, held to a slow version that reads like the paper."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framefusion import FrameFusion, ToMe
from framefusion.errors import ArgumentError
from framefusion.reduction.tome import merged_places


def textbook(keys: list[list[float]], count: int, fixed: int) -> tuple[list[int], list[int]]:
    """Rows are dealt to two sets in turns; each of the second draws an edge to its most similar of the first; the
    ``count`` most similar edges stay, and what they connect merges."""

    def cosine(a: list[float], b: list[float]) -> float:
        lengths = math.hypot(*a) * math.hypot(*b)
        return sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0

    first, second = range(fixed, len(keys), 2), range(fixed + 1, len(keys), 2)
    edges = []
    for source in second:
        target = max(first, key=lambda other: round(cosine(keys[source], keys[other]), 5))
        edges.append((round(cosine(keys[source], keys[target]), 5), source, target))
    edges.sort(key=lambda edge: (-edge[0], edge[1]))
    into = {source: target for _, source, target in edges[:count]}
    kept = [row for row in range(len(keys)) if row not in into]
    return [kept.index(into.get(row, row)) for row in range(len(keys))], kept


@given(
    n=st.integers(2, 13), d=st.integers(2, 4), fixed=st.integers(0, 2), share=st.floats(0, 1), seed=st.integers(0, 999)
)
@settings(max_examples=200, deadline=None)
def test_equals_the_textbook(n: int, d: int, fixed: int, share: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(2, fixed + n, d, generator=generator, dtype=torch.float64).float()
    count = int(share * (n // 2))
    places, kept = merged_places(keys, count, fixed)
    for row, found, stay in zip(keys.tolist(), places.tolist(), kept.tolist(), strict=True):
        assert (found, stay) == textbook(row, count, fixed)
        assert len(stay) == fixed + n - count
        assert [found[row] for row in stay] == list(range(len(stay)))
        assert found[:fixed] == list(range(fixed))


def test_copies_merge_before_all_else() -> None:
    keys = torch.eye(6)[None]
    keys[0, 3] = 2 * keys[0, 2]
    places, kept = merged_places(keys, 1)
    assert kept.tolist() == [[0, 1, 2, 4, 5]]
    assert places.tolist() == [[0, 1, 2, 2, 3, 4]]


@pytest.mark.parametrize(("blocks", "work"), [(1, 1.0), (2, 0.75), (3, 0.7), (12, 0.66), (27, 0.66), (32, 0.52)])
@pytest.mark.parametrize("rows", [1, 7, 145, 729])
def test_work_is_what_was_asked_for(blocks: int, work: float, rows: int) -> None:
    rule = ToMe(work)
    rule.check(blocks)
    counts = rule.counts(rows, blocks)
    assert counts[0] == rows
    assert len(counts) == blocks
    assert all(left <= before <= 2 * left for before, left in pairwise(counts))
    if rows > 100:
        assert sum(counts) / (rows * blocks) == pytest.approx(work, abs=0.005)
    assert [count - 5 for count in rule.counts(rows + 5, blocks, 5)] == counts


def test_too_little_work_is_refused_with_the_least_there_is() -> None:
    with pytest.raises(ArgumentError, match=r"ToMe.work must be at least 0.667 for a vision tower of 3 blocks"):
        ToMe(0.5).check(3)
    ToMe(0.667).check(3)
    with pytest.raises(ArgumentError, match=r"ToMe.work"):
        ToMe(1.2)
    with pytest.raises(ArgumentError, match="tower='tome:few': the work must be a number"):
        FrameFusion(tower="tome:few")
    assert FrameFusion(tower="tome:0.8").tower == ToMe(0.8)
