"""The reference is the definition: maximise the determinant greedily on the full matrix, cut into segments."""

from __future__ import annotations

import pytest
import torch

from framefusion.selection import reference, select_tokens
from tests.selection.oracle import greedy_by_determinants, kernel, noise, weights


@pytest.mark.parametrize("relevance", [None, "random"])
@pytest.mark.parametrize("seed", range(5))
def test_equals_greedy_determinants(seed: int, relevance: str | None) -> None:
    features = noise(14, 20, seed=seed, dtype=torch.float64)
    r = None if relevance is None else weights(14, seed=seed)
    chosen = select_tokens(features, r, None, 9, backend="reference").tolist()
    expected = greedy_by_determinants(kernel(features, r), 9)
    # Uniform relevance: all first gains are equal, and the lowest index wins in both.
    assert chosen == expected


def test_cuts_the_full_matrix_into_segments() -> None:
    features, r = noise(24, 30, dtype=torch.float64), weights(24)
    ids = torch.tensor([0, 1, 2, -1] * 6)
    full = kernel(features, r)
    chosen = select_tokens(features, r, ids, {2: 3, 0: 4}, backend="reference").tolist()
    expected = []
    for segment, k in ((2, 3), (0, 4)):
        rows = (ids == segment).nonzero().flatten().numpy()
        expected += rows[greedy_by_determinants(full[rows][:, rows], k)].tolist()
    assert chosen == expected


def test_refuses_a_matrix_that_is_too_large() -> None:
    features = torch.zeros(reference.MAX_TOKENS + 1, 1)
    with pytest.raises(ValueError, match=r"'reference' .* at most 8192 tokens, got 8193; use backend='auto'"):
        select_tokens(features, None, None, 1, backend="reference")


def test_exact_diagonal() -> None:
    features = noise(50, 7, dtype=torch.float64)
    features[3] = 0
    r = weights(50)
    diagonal = reference.full_kernel(features, r).diagonal()
    expected = r * r
    expected[3] = 0
    assert torch.equal(diagonal, expected)
