"""Relevance from what decides everything to what decides nothing, with and without gains, in the backend of the CPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from framefusion.selection import select_tokens
from tests.selection.oracle import noise, weights

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def redundant(tokens: int, dim: int, common: float, seed: int = 0) -> Tensor:
    """Tokens that share a direction, the more similar the larger ``common`` is; every third is of another kind."""
    shared = common * noise(1, dim, seed=seed + 1).repeat(tokens, 1)
    shared[::3] = 0
    return noise(tokens, dim, seed=seed) + shared


@settings(max_examples=60)
@given(
    tokens=st.integers(1, 300),
    share=st.floats(0.01, 1),
    common=st.sampled_from([0.0, 1.0, 5.0, 30.0]),
    skew=st.sampled_from([0.0, 0.2, 1.0, 8.0]),
    exhausted=st.sampled_from(["fill", "stop", "restart"]),
    dim=st.sampled_from([3, 40]),
    seed=st.integers(0, 99),
)
def test_it_selects_what_all_products_would(
    tokens: int, share: float, common: float, skew: float, exhausted: str, dim: int, seed: int
) -> None:
    """From relevance that decides everything to relevance that decides nothing, and below and above the rank. What
    asks for gains has all products."""
    features, r = redundant(tokens, dim, common, seed).double(), weights(tokens, seed=seed) ** skew
    r[::3] *= 0.3
    k = max(1, int(share * tokens))
    kept = select_tokens(features, r, None, k, backend="numba", exhausted=exhausted)
    every, gains = select_tokens(features, r, None, k, backend="numba", exhausted=exhausted, return_gains=True)
    assert torch.equal(kept, every)
    assert len(gains) == len(kept)


@settings(max_examples=60)
@given(
    tokens=st.integers(1, 120),
    share=st.floats(0.01, 1),
    directions=st.integers(1, 40),
    levels=st.integers(1, 6),
    exhausted=st.sampled_from(["fill", "stop", "restart"]),
    seed=st.integers(0, 999),
)
def test_ties_go_to_the_lowest_index_whatever_the_relevance(
    tokens: int, share: float, directions: int, levels: int, exhausted: str, seed: int
) -> None:
    """Copies of orthogonal tokens with powers of two as relevance: every gain is exact, and many are equal."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.eye(40)[torch.randint(directions, (tokens,), generator=generator)]
    r = 2.0 ** -torch.randint(levels, (tokens,), generator=generator)
    k = max(1, int(share * tokens))
    kept = select_tokens(features, r, None, k, backend="numba", exhausted=exhausted)
    assert torch.equal(kept, select_tokens(features, r, None, k, backend="reference", exhausted=exhausted))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_named_where_no_product_would_show_it(dtype: torch.dtype, value: float) -> None:
    features, r = noise(100, 70).to(dtype), torch.full((100,), 1e-3)
    r[40:50] = 1
    expected = select_tokens(features, r, None, 5)
    for token, place in ((33, 0), (70, 69), (99, 33)):
        broken = features.clone()
        broken[token, place] = value
        with pytest.raises(ValueError, match=rf"features.*{token}, {place}"):
            select_tokens(broken, r, None, 5)
        assert torch.equal(select_tokens(broken, r, None, 5, check_finite=False), expected)
    largest = features.clone()
    largest[70] = torch.finfo(dtype).max
    largest[71] = -torch.finfo(dtype).max
    largest[72, ::2] = torch.finfo(dtype).max
    assert torch.equal(select_tokens(largest, r, None, 5), expected)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
@pytest.mark.parametrize("token", [6, 190])
def test_squares_out_of_range(scale: float, token: int) -> None:
    """Of a candidate that is there from the beginning, and of one that joins and is picked."""
    features, r = noise(200, 60) + 5 * noise(1, 60, seed=1), torch.linspace(1, 0.2, 200)
    r[150:190] = 1e-3
    features[190:] = noise(10, 60, seed=9)
    expected = select_tokens(features, r, None, 20)
    assert token in expected
    factors = torch.ones(200, 1)
    factors[token] = scale
    assert torch.equal(select_tokens(features * factors, r, None, 20), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [270, 286, 288])
def test_candidates_join_again_and_again(dtype: torch.dtype, tokens: int) -> None:
    """All of the most relevant tokens are copies, so each pick but the first is of the least relevant ones."""
    features = torch.cat([noise(1, 60).repeat(tokens - 40, 1), noise(40, 60, seed=2)]).to(dtype)
    r = torch.cat([torch.linspace(1, 0.5, tokens - 40), torch.linspace(0.4, 0.1, 40)])
    kept = select_tokens(features, r, None, 30)
    assert torch.equal(kept, select_tokens(features.double(), r, None, 30, backend="torch"))
    assert (kept >= tokens - 40).sum() == 29


def test_zero_vectors_that_join_late_with_the_gaussian_kernel() -> None:
    """They have all products computed again, where the first candidates' are kernel values by then."""
    n = 220
    # Few directions: what is relevant is spent soon, and the others join.
    features = noise(8, 24).repeat(28, 1)[:n] + 0.05 * noise(n, 24, seed=1)
    r = torch.linspace(1, 0.2, n, dtype=torch.float64)
    features[150::7] = 0
    chosen = select_tokens(features, r, None, 60, backend="numba", gamma=1.0)
    assert torch.equal(chosen, select_tokens(features, r, None, 60, backend="reference", gamma=1.0))
