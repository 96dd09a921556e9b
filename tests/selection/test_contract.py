"""Counts, fill, diagonal, ties, scale and layout: the promises beside agreement with the textbook."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from framefusion.selection import select_tokens
from tests.selection.conftest import FAST, use
from tests.selection.oracle import kernel, noise, weights

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def test_duplicates_are_filled_by_relevance_then_index(backend: str) -> None:
    features = noise(3, 16).repeat_interleave(4, dim=0)
    r = torch.tensor([0.9, 0.5, 0.5, 0.8, 0.6, 0.2, 0.6, 0.1, 0.3, 0.3, 0.3, 0.3])
    chosen = select_tokens(features, r, None, 12, backend=backend).tolist()
    assert set(chosen[:3]) == {0, 4, 8}
    assert chosen[3:] == [3, 6, 1, 2, 9, 10, 11, 5, 7]


def test_stop_returns_the_rank(backend: str) -> None:
    features = noise(3, 16).repeat_interleave(4, dim=0)
    ids = torch.tensor([0, 1] * 6)
    chosen = select_tokens(features, None, ids, [6, 2], backend=backend, exhausted="stop")
    assert (ids[chosen] == 0).sum() == 3
    assert (ids[chosen] == 1).sum() == 2


@pytest.mark.parametrize("relevant", [22, 96])
def test_equal_gains_of_unequal_relevance_go_to_the_lowest_index(backend: str, relevant: int) -> None:
    """Three picks leave a quarter of the gain of a token that half contains them: as much as one of half its relevance
    has from the beginning."""
    features, r = torch.zeros(relevant + 14, 16), torch.ones(relevant + 14)
    features[1 : relevant + 1, 0] = 1
    features[20, :4] = 1
    for token, direction in ((0, 9), (21, 1), (22, 2)):
        features[token] = torch.eye(16)[direction]
    features[relevant + 1 :, 10] = 1
    r[0], r[relevant + 1 :] = 0.5, 0.25
    assert select_tokens(features, r, None, 5, backend=backend).tolist() == [1, 21, 22, 0, 20]


def test_exhaustion_looks_at_each_tokens_own_diagonal(backend: str) -> None:
    """An orthogonal token with r² = 1e-12 is far from exhausted; a copy of the most relevant token is."""
    features = torch.zeros(4, 3)
    features[0, 0] = features[1, 0] = features[2, 1] = features[3, 2] = 1
    r = torch.tensor([1.0, 0.9, 1e-6, 1e-7])
    assert select_tokens(features, r, None, 4, backend=backend).tolist() == [0, 2, 3, 1]


def test_rank_below_budget_gives_exact_count(backend: str, interpreted: bool) -> None:
    n, k = (30, 20) if interpreted else (80, 50)
    features = noise(n, 4) @ noise(4, 32, seed=2)
    chosen = select_tokens(features, weights(n), None, k, backend=backend)
    assert len(chosen) == len(chosen.unique()) == k


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_vectors_come_last(backend: str, dtype: torch.dtype) -> None:
    features = noise(6, 8, dtype=dtype)
    features[1] = features[4] = 0
    r = torch.tensor([0.5, 0.7, 0.6, 0.4, 0.9, 0.3])
    chosen = select_tokens(features, r, None, 6, backend=backend).tolist()
    assert chosen[4:] == [4, 1]
    assert select_tokens(torch.zeros(3, 2, dtype=dtype), None, None, 2, backend=backend).tolist() == [0, 1]


def test_counts_at_the_edges(backend: str) -> None:
    features = noise(6, 4)
    ids = torch.tensor([0, 0, 2, 2, 2, -1])
    chosen = select_tokens(features, None, ids, {2: 99, 1: 5, 0: 0}, backend=backend)
    assert sorted(chosen.tolist()) == [2, 3, 4]
    assert select_tokens(features, None, ids, 0, backend=backend).shape == (0,)
    assert select_tokens(features[:0], None, None, 3, backend=backend).shape == (0,)
    assert select_tokens(features, None, torch.full((6,), -1), 3, backend=backend).dtype == torch.int64
    assert select_tokens(features[None, :0], None, None, 3, backend=backend)[0].shape == (0,)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("level", [1.0, 100.0, 3e-5])
def test_first_pick_under_uniform_relevance_is_the_first_token(
    backend: str, interpreted: bool, dtype: torch.dtype, level: float
) -> None:
    """With a rounded diagonal it would be whichever token rounds up most."""
    if interpreted and level != 3e-5:
        pytest.skip("too slow in an interpreter")
    n, k = (90, 1) if interpreted else (300, 4)
    features = noise(n, 77, seed=5, dtype=dtype)
    ids = torch.arange(n) % 3
    chosen = select_tokens(features, torch.full((n,), level), ids, [k] * 3, backend=backend)
    assert chosen[::k].tolist() == [0, 1, 2]


def test_ties_go_to_the_lowest_index(backend: str) -> None:
    features = torch.eye(7)
    assert select_tokens(features, None, None, 5, backend=backend).tolist() == [0, 1, 2, 3, 4]
    r = torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0, 1.0, 3.0])
    assert select_tokens(features, r, None, 7, backend=backend).tolist() == [1, 3, 6, 2, 4, 0, 5]


@pytest.mark.parametrize(
    ("dtype", "scales"),
    [
        (torch.float32, [1e-42, 1e-30, 1e-20, 1e-6, 1e6, 1e20, 1e36]),
        (torch.bfloat16, [1e-30, 1e-6, 1e6, 1e30]),
        (torch.float16, [1e-3, 1e3]),
        (torch.float64, [1e-300, 1e-6, 1e6, 1e300]),
    ],
)
def test_scale_of_the_features_does_not_matter(
    backend: str, interpreted: bool, dtype: torch.dtype, scales: list[float]
) -> None:
    k = 3 if interpreted else 10
    ids, r = torch.arange(40) % 2, weights(40)
    for scale in scales:
        features = (noise(40, 24, dtype=torch.float64) * scale).to(dtype)
        # The rounded values, so that only the scale differs.
        expected = select_tokens(features.double() / scale, r, ids, [k, k], backend="reference")
        assert torch.equal(select_tokens(features, r, ids, [k, k], backend=backend), expected)


def test_rows_of_very_different_scale(backend: str) -> None:
    features = noise(30, 16)
    factors = torch.logspace(-30, 30, 30)[torch.randperm(30, generator=torch.Generator().manual_seed(0))]
    expected = select_tokens(features, None, None, 12, backend="reference")
    assert torch.equal(select_tokens(features * factors[:, None], None, None, 12, backend=backend), expected)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_scale_of_the_relevance_does_not_matter(backend: str, scale: float) -> None:
    features, r = noise(40, 24), weights(40)
    expected = select_tokens(features, r, None, 15, backend="reference")
    assert torch.equal(select_tokens(features, r * scale, None, 15, backend=backend), expected)


def test_gradients_are_not_tracked(backend: str) -> None:
    features = noise(10, 4).requires_grad_()
    r = weights(10).requires_grad_()
    assert not select_tokens(features, r, None, 3, backend=backend).requires_grad


def test_input_is_left_alone(backend: str) -> None:
    features, r = noise(20, 8), weights(20)
    before = features.clone(), r.clone()
    select_tokens(features, r, None, 5, backend=backend)
    assert torch.equal(features, before[0])
    assert torch.equal(r, before[1])


def test_integer_budget_is_split_by_largest_remainder(backend: str) -> None:
    ids = torch.tensor([3] * 5 + [1] * 5 + [7] * 10 + [-1] * 4)
    chosen = select_tokens(noise(24, 30), None, ids, 6, backend=backend)
    # quotas 1.5, 1.5, 3: the one left over goes to the lower id
    assert ids[chosen].tolist() == [1, 1, 3, 7, 7, 7]
    assert len(select_tokens(noise(24, 30), None, ids, 99, backend=backend)) == 20


def test_budget_forms_agree() -> None:
    features, ids = noise(30, 40), torch.arange(30) % 3
    expected = select_tokens(features, None, ids, {0: 2, 1: 3, 2: 4})
    for budgets in ([2, 3, 4], (2, 3, 4), torch.tensor([2, 3, 4]), torch.tensor([2, 3, 4]).numpy()):
        assert torch.equal(select_tokens(features, None, ids, budgets), expected)
    assert torch.equal(select_tokens(features, None, ids.tolist(), {0: 2, 1: 3, 2: 4}), expected)
    batch = select_tokens(features.expand(2, -1, -1), None, ids, [[2, 3, 4], {2: 1}])
    assert torch.equal(batch[0], expected)
    assert torch.equal(batch[1], select_tokens(features, None, ids, {2: 1}))


def gains_by_definition(matrix: np.ndarray, chosen: list[int]) -> list[float]:
    """How much each index multiplies the determinant of those before it."""
    determinants = [1.0] + [
        float(np.linalg.det(matrix[np.ix_(chosen[:t], chosen[:t])])) for t in range(1, 1 + len(chosen))
    ]
    return [after / before for before, after in pairwise(determinants)]


@pytest.mark.parametrize("name", [*FAST, "reference"])
@pytest.mark.parametrize("relevance", ["none", "random", "large", "small"])
def test_gains_are_ratios_of_determinants(name: str, relevance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = use(name, monkeypatch)
    features, ids = noise(40, 24, dtype=torch.float64), torch.arange(40) % 3
    scale = {"random": 1.0, "large": 2.0**20, "small": 2.0**-20}.get(relevance)
    r = None if scale is None else weights(40) * scale * torch.tensor([1.0, 0.01, 30.0])[ids]
    budgets = {2: 5, 0: 1, 1: 7}
    kept, gains = select_tokens(features, r, ids, budgets, backend=name, return_gains=True)
    assert isinstance(kept, torch.Tensor)
    assert isinstance(gains, torch.Tensor)
    assert gains.dtype == torch.float64
    assert torch.equal(kept, select_tokens(features, r, ids, budgets, backend=name))
    full = kernel(features, r)
    expected = [
        gain for chosen in kept.split(list(budgets.values())) for gain in gains_by_definition(full, chosen.tolist())
    ]
    torch.testing.assert_close(gains, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gains_never_increase_within_a_segment(backend: str, interpreted: bool, dtype: torch.dtype) -> None:
    n, rank, k = (60, 8, 12) if interpreted else (200, 16, 60)
    features = (noise(n, rank) @ noise(rank, 64, seed=3) + 0.01 * noise(n, 64, seed=4)).to(dtype)
    ids, r = torch.arange(n) % 2, weights(n)
    kept, gains = select_tokens(features, r, ids, [k, k], backend=backend, return_gains=True)
    for own in gains.split(k):
        assert (own.diff() <= 0).all()
    _, exact = select_tokens(features.double(), r, ids, [k, k], backend="reference", return_gains=True)
    torch.testing.assert_close(gains[:8], exact[:8], rtol=1e-3, atol=0)
    assert torch.equal(kept, select_tokens(features, r, ids, [k, k], backend=backend))


def test_tokens_that_fill_up_have_no_gain(backend: str) -> None:
    features = noise(3, 16).repeat_interleave(4, dim=0)
    kept, gains = select_tokens(features, weights(12), None, 9, backend=backend, return_gains=True)
    assert len(kept) == len(gains) == 9
    assert (gains[:3] > 0).all()
    assert gains[3:].tolist() == [0.0] * 6
    for exhausted in ("fill", "stop"):
        arguments = (torch.zeros(4, 3), None, [0, 0, 1, 2], {0: 1, 1: 0, 5: 2})
        kept, gains = select_tokens(*arguments, backend=backend, exhausted=exhausted, return_gains=True)
        assert gains.tolist() == [0.0] * len(kept)
        assert len(kept) == (1 if exhausted == "fill" else 0)


def test_gains_of_a_batch_are_those_of_its_rows(backend: str) -> None:
    features, r = noise(3, 30, 20), weights(3, 30)
    ids = torch.arange(30) % 2
    kept, gains = select_tokens(features, r, ids, [6, 4], backend=backend, return_gains=True)
    for b in range(3):
        own, own_gains = select_tokens(features[b], r[b], ids, [6, 4], backend=backend, return_gains=True)
        assert torch.equal(kept[b], own)
        assert torch.equal(gains[b], own_gains)
