from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framefusion.reduction import budgets


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 500)), max_size=12),
    st.integers(0, 3000),
)
def test_the_total_is_exact_and_the_bounds_hold(segments: list[tuple[float, int]], total: int) -> None:
    weights, capacities = [w for w, _ in segments], [c for _, c in segments]
    counts = budgets.apportion(weights, total, capacities)
    total = min(total, sum(capacities))
    assert sum(counts) == total
    assert all(0 <= n <= c for n, c in zip(counts, capacities, strict=True))
    if total >= sum(c > 0 for c in capacities):
        assert all(n >= 1 for n, c in zip(counts, capacities, strict=True) if c)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=12), st.floats(0.01, 1))
def test_uniform_is_within_one_of_the_quota(lengths: list[int], share: float) -> None:
    total = budgets.total_kept(share, sum(lengths))
    counts = budgets.uniform(lengths, total)
    for n, length in zip(counts, lengths, strict=True):
        quota = total * length / sum(lengths)
        # Segments raised to one token take at most as much from the others as there are segments.
        assert n <= max(1, quota + 1)
        assert n >= min(length, quota) - len(lengths) if min(counts) == 1 else n > quota - 1


def test_largest_remainder_with_ties_to_the_lower_index() -> None:
    assert budgets.apportion([1, 1, 1], 4, [9, 9, 9]) == [2, 1, 1]
    assert budgets.apportion([5, 3, 2], 7, [9, 9, 9]) == [4, 2, 1]
    assert budgets.apportion([10, 1], 8, [5, 9]) == [5, 3]


@pytest.mark.parametrize(
    ("share", "tokens", "kept"), [(0.2, 512, 102), (0.5, 5, 3), (0.001, 100, 1), (1.0, 7, 7), (0.3, 0, 0)]
)
def test_total_kept(share: float, tokens: int, kept: int) -> None:
    assert budgets.total_kept(share, tokens) == kept


def reference_marginal_values(means: torch.Tensor) -> list[float]:
    values = []
    for i in range(len(means)):
        past = torch.cosine_similarity(means[i], means[:i].mean(0), dim=0).item() if i else 0.0
        later = means[i + 1 :]
        future = torch.cosine_similarity(means[i], later.mean(0), dim=0).item() if len(later) else 0.0
        values.append(0.5 * past + 0.5 * (1 - future))
    mean = sum(values) / len(values)
    spread = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
    return [(v - mean) / (spread + 1e-8) for v in values]


def test_marginal_values_follow_the_formula() -> None:
    means = torch.randn(5, 7, generator=torch.Generator().manual_seed(3))
    assert budgets.marginal_values(means).tolist() == pytest.approx(reference_marginal_values(means), abs=1e-5)
    assert budgets.marginal_values(means[:1]).tolist() == [0.0]


def test_two_segments_deviate_by_one() -> None:
    """The deviation is the population's: two values lie one of it from their mean."""
    means = torch.randn(2, 7, generator=torch.Generator().manual_seed(4))
    assert sorted(budgets.marginal_values(means).tolist()) == pytest.approx([-1.0, 1.0], abs=1e-5)


def test_marginal_value_shifts_tokens_and_hits_the_total() -> None:
    means = torch.randn(4, 7, generator=torch.Generator().manual_seed(5))
    lengths = [200, 200, 200, 200]
    counts = budgets.marginal_value(means, lengths, 240)
    ratios = [min(max(0.3 + 0.1 * v, 0.05), 0.95) for v in reference_marginal_values(means)]
    assert sum(counts) == 240
    for count, ratio in zip(counts, ratios, strict=True):
        assert count == pytest.approx(240 * ratio / sum(ratios), abs=1)
    assert budgets.marginal_value(means, [0, 0, 0, 0], 0) == [0, 0, 0, 0]


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="weights has 1 entries but capacities has 2"):
        budgets.apportion([1.0], 3, [1, 2])
    with pytest.raises(ValueError, match=r"weights\[1\] is nan"):
        budgets.apportion([1.0, float("nan")], 3, [1, 2])
    with pytest.raises(ValueError, match="must not be negative"):
        budgets.apportion([1.0], -1, [1])
    with pytest.raises(ValueError, match="means has 2 rows but lengths has 1"):
        budgets.marginal_value(torch.ones(2, 3), [4], 2)
