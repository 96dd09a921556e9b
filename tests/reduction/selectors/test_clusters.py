from __future__ import annotations

import math
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framefusion.reduction.selectors import clusters


def features(count: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def textbook_scores(x: torch.Tensor, neighbours: int) -> list[float]:
    """DPC-KNN on the full distance matrix."""
    n, width = x.shape
    distance = [[float((x[i] - x[j]).norm()) / width**0.5 for j in range(n)] for i in range(n)]
    density = []
    for i in range(n):
        squared = [d**2 for d in sorted(distance[i])[: min(neighbours, n)]]
        density.append(math.exp(-sum(squared) / len(squared)))
    scores = []
    for i in range(n):
        denser = [distance[i][j] for j in range(n) if (-density[j], j) < (-density[i], i)]
        gap = min(denser) if denser else max(max(row) for row in distance)
        scores.append(density[i] * gap)
    return scores


@given(st.integers(3, 30), st.integers(1, 6), st.integers(0, 999), st.integers(1, 8), st.sampled_from([1, 17, 1 << 22]))
def test_density_scores_are_the_textbook_s(count: int, width: int, seed: int, neighbours: int, block: int) -> None:
    x = features(count, width, seed)
    with mock.patch.object(clusters, "BLOCK", block):
        got = clusters.density_scores(x, neighbours)
    if neighbours > 2:
        assert got.tolist() == pytest.approx(textbook_scores(x, neighbours), rel=1e-6, abs=1e-9)
    else:
        # Each token is as dense as its only neighbour, but for rounding.
        assert bool((got >= 0).all())


def test_the_centres_of_two_heaps_are_the_peaks() -> None:
    heap = torch.tensor([[0.0, 0.0], [0.3, 0.0], [-0.3, 0.0], [0.0, 0.3], [0.0, -0.3]])
    x = torch.cat([heap, heap + 10])
    assert sorted(clusters.peaks(x, 2, 4).tolist()) == [0, 5]


def test_a_row_is_exactly_at_no_distance_from_itself() -> None:
    """Alone as its own neighbour every row is as dense as any other, and only earlier rows count as denser."""
    x = 100 * features(40, 30, 1).float()
    distance = torch.cdist(x.double(), x.double()) / 30**0.5
    expected = [float(distance.max())] + [float(distance[i, :i].min()) for i in range(1, 40)]
    assert clusters.density_scores(x, 1).tolist() == pytest.approx(expected, rel=1e-4)


def test_equal_rows_have_one_peak_and_zero_elsewhere() -> None:
    x = torch.ones(5, 3)
    x[3] = 2
    scores = clusters.density_scores(x, 2)
    assert scores.isfinite().all()
    assert (scores > 0).tolist() == [True, False, False, True, False]


@given(st.integers(1, 30), st.integers(2, 6), st.integers(0, 999), st.data())
def test_nearest(count: int, width: int, seed: int, data: st.DataObject) -> None:
    x = features(count, width, seed)
    centres = torch.tensor(data.draw(st.lists(st.integers(0, count - 1), min_size=1, unique=True)))
    with mock.patch.object(clusters, "BLOCK", data.draw(st.sampled_from([1, 17, 1 << 22]))):
        near = clusters.nearest(x, centres)
    assert near.tolist() == [
        min(range(len(centres)), key=lambda c: float((x[i] - x[centres[c]]).norm())) for i in range(count)
    ]


@given(
    st.integers(1, 12), st.integers(0, 999), st.sampled_from([torch.float64, torch.float32, torch.bfloat16]), st.data()
)
def test_blend(count: int, seed: int, dtype: torch.dtype, data: st.DataObject) -> None:
    x = features(count, 3, seed).to(dtype)
    indices = torch.tensor(data.draw(st.lists(st.integers(0, count - 1), min_size=1, unique=True)))
    target = torch.tensor([data.draw(st.sampled_from([-1, *indices.tolist()])) for _ in range(count)])
    target[indices] = indices
    got = clusters.blend(x, target, indices, 0.6)
    assert got.dtype == dtype
    for row, kept in zip(got, indices.tolist(), strict=True):
        absorbed = [x[i].double() for i in range(count) if target[i] == kept and i != kept]
        if absorbed:
            expected = 0.6 * x[kept].double() + 0.4 * sum(absorbed) / len(absorbed)
            assert torch.allclose(
                row.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps
            )
        else:
            assert torch.equal(row, x[kept])
