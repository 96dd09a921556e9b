"""The backend of the CPU beyond what the contract's sizes reach: several stripes, several blocks, long segments."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from framefusion.selection import gram_schmidt, numba_backend, plan, reference, select_tokens, torch_backend, warm_up
from framefusion.selection.greedy_loop import WIDTH, greedy, mirror
from framefusion.selection.numerics import EXHAUSTION_FACTOR, gaussian_, products
from framefusion.selection.plan import Segment
from tests.selection.oracle import kernel, log_determinant, noise, weights


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("tokens", "dim"), [(1, 1), (5, 7), (64, 33), (65, 1100), (700, 64), (1300, 20)])
def test_stripes_make_the_lower_triangle(tokens: int, dim: int, dtype: torch.dtype) -> None:
    features = noise(tokens, dim, dtype=dtype)
    exact = features.double() @ features.double().T
    gram = numba_backend.lower_gram(features)
    tolerance = 1e-14 if dtype == torch.float64 else 1e-6
    assert (gram.double() - exact).tril().abs().max() <= tolerance * exact.abs().max()
    inverse = features.norm(dim=1).reciprocal()
    expected = gaussian_(exact * inverse[:, None] * inverse, 0.7)
    numba_backend.gaussian_triangle_(gram, inverse, 0.7)
    assert (gram.double() - expected).tril().abs().max() <= 10 * tolerance


@pytest.mark.parametrize("n", [1, 31, 32, 33, 100])
def test_mirroring_fills_the_upper_triangle(n: int) -> None:
    matrix = np.random.default_rng(n).random((n, n), np.float32)
    expected = np.tril(matrix) + np.tril(matrix, -1).T
    mirror(matrix)
    assert np.array_equal(matrix, expected)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 3 * WIDTH), share=st.floats(0.01, 1), rank=st.integers(1, 60), seed=st.integers(0, 99))
def test_the_loop_on_several_blocks_is_the_textbook(n: int, share: float, rank: int, seed: int) -> None:
    """Blocks that catch up late find what all candidates would have found at every step, gains and novelties too."""
    x, r = noise(n, rank, seed=seed, dtype=torch.float64), weights(n, seed=seed)
    matrix = reference.full_kernel(x, r)
    k, factor = max(1, int(share * n)), EXHAUSTION_FACTOR * torch.finfo(torch.float64).eps
    picks, trace = np.empty(k, np.int64), np.zeros((k, 2))
    found = greedy(matrix.numpy(), np.ones(n), matrix.diagonal().numpy().copy(), factor, picks, trace)
    chosen, expected = reference.greedy_map(matrix, k, factor)
    # Below it rounding decides what is exhausted.
    sure = min(found, len(chosen), rank - 1)
    assert picks[:sure].tolist() == chosen[:sure]
    np.testing.assert_allclose(trace[:sure], np.array(expected).reshape(-1, 2)[:sure], rtol=1e-6, atol=1e-10)
    without = np.empty(k, np.int64)
    none = np.empty((0, 2))
    assert greedy(matrix.numpy(), np.ones(n), matrix.diagonal().numpy().copy(), factor, without, none) == found
    assert np.array_equal(without[:found], picks[:found])


def test_the_loop_gives_ties_to_the_lowest_index_across_blocks() -> None:
    n = 2 * WIDTH + 9
    picks = np.empty(n, np.int64)
    identity = np.eye(n, dtype=np.float32)
    greedy(identity, np.ones(n, np.float32), np.ones(n, np.float32), 1e-6, picks, np.empty((0, 2)))
    assert np.array_equal(picks, np.arange(n))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_longer_segments_equal_the_float64_ones(dtype: torch.dtype) -> None:
    features, r = noise(1500, 40).to(dtype), weights(1500)
    ids = torch.arange(1500) % 2
    assert torch.equal(select_tokens(features, r, ids, [30, 20]), select_tokens(features.double(), r, ids, [30, 20]))


def test_bfloat16_meets_the_agreement_bar() -> None:
    features = (noise(196 * 6, 512) + noise(6, 512, seed=4).repeat_interleave(196, 0)).bfloat16()
    ids, r = torch.arange(6).repeat_interleave(196), weights(196 * 6)
    mine = select_tokens(features, r, ids, [98] * 6)
    exact = select_tokens(features.double(), r, ids, [98] * 6)
    assert (mine == exact).float().mean() >= 0.995
    for s, (own, best) in enumerate(zip(mine.split(98), exact.split(98), strict=True)):
        rows = torch.arange(s * 196, (s + 1) * 196)
        full = kernel(features[rows], r[rows])
        gap = log_determinant(full, best - s * 196) - log_determinant(full, own - s * 196)
        assert abs(gap) <= 1e-3 * 98


def test_what_is_not_finite_in_one_of_many_segments_is_named() -> None:
    features = noise(2000, 20)
    features[1234, 7] = torch.nan
    with pytest.raises(ValueError, match=r"features.*1234, 7"):
        select_tokens(features, None, torch.arange(2000) // 400, [15] * 5)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_long_segments_out_of_range_are_rescaled(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    features = noise(700, 30)
    expected = select_tokens(features, None, None, 25)
    factors = torch.full((700, 1), scale)
    factors[::3] = 1
    assert torch.equal(select_tokens(features * factors, None, None, 25), expected)
    monkeypatch.setattr(plan, "LONG_SEGMENT", 0)
    assert torch.equal(select_tokens(features * factors, None, None, 25), expected)


def test_callers_in_many_threads_do_not_disturb_each_other() -> None:
    cases = [(noise(400, 64, seed=s).bfloat16(), torch.arange(400) // 80) for s in range(8)]
    expected = [select_tokens(x, None, ids, [30] * 5) for x, ids in cases]
    found: dict[int, Tensor] = {}

    def work(i: int) -> None:
        for _ in range(5):
            found[i] = select_tokens(cases[i][0], None, cases[i][1], [30] * 5)

    helpers = [threading.Thread(target=work, args=(i,)) for i in range(len(cases))]
    for helper in helpers:
        helper.start()
    for helper in helpers:
        helper.join()
    assert all(torch.equal(found[i], kept) for i, kept in enumerate(expected))


def test_selections_of_views_without_tokens_and_of_negated_numbers() -> None:
    assert select_tokens(torch.zeros(5, 8)[:0, :4], None, None, 0).tolist() == []
    assert torch.equal(select_tokens(noise(1, 30).expand(9, 30), None, None, 3), torch.arange(3))
    narrow = torch.randn(9, 1, dtype=torch.cfloat).conj().imag
    assert torch.equal(select_tokens(narrow, None, None, 2), select_tokens(narrow.resolve_neg(), None, None, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_warming_up_compiles_all_that_is_called(dtype: torch.dtype) -> None:
    warm_up(dtype)
    known = [len(greedy.signatures), len(mirror.signatures)]
    select_tokens(noise(40, 5, dtype=dtype), weights(40), None, 9, exhausted="restart", return_gains=True, gamma=1.0)
    assert known == [len(greedy.signatures), len(mirror.signatures)]


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 300), k=st.integers(1, 60), dim=st.integers(1, 30), traced=st.booleans(), seed=st.integers(0, 99)
)
def test_lazy_gram_schmidt_is_the_eager_one(n: int, k: int, dim: int, traced: bool, seed: int) -> None:
    features, r = noise(n, dim, seed=seed, dtype=torch.float64), weights(n, seed=seed)
    rows, k = gram_schmidt.Rows(features, Segment(0, torch.arange(n), n, 0)), min(k, n)
    scale, diagonal = r / features.norm(dim=1), r * r
    traces = [torch.zeros(k, 2, dtype=torch.float64) if traced else None for _ in range(2)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(gram_schmidt, "LAZY_ROWS", 40)
        lazy = gram_schmidt.greedy_lazily(rows, scale, diagonal, k, traces[0])
    assert torch.equal(lazy, gram_schmidt.greedy_everywhere(rows, scale, diagonal, k, traces[1]))
    if traces[0] is not None:
        torch.testing.assert_close(traces[0], traces[1], rtol=1e-6, atol=1e-12)


def test_long_segments_restart_without_reading_everything_again(monkeypatch: pytest.MonkeyPatch) -> None:
    features = noise(40, 5)[torch.arange(200) % 40]
    expected = select_tokens(features, None, None, 30, exhausted="restart")
    monkeypatch.setattr(plan, "LONG_SEGMENT", 100)
    monkeypatch.setattr(gram_schmidt.Rows, "norms_squared", once(gram_schmidt.Rows.norms_squared))
    assert torch.equal(select_tokens(features, None, None, 30, exhausted="restart"), expected)
    kept, gains = select_tokens(features[:150], None, None, 30, exhausted="restart", return_gains=True)
    assert len(kept) == len(gains) == 30


def once(function: Any) -> Any:
    """A function that each of its objects may call once."""
    # The objects themselves: the number of one that is gone may be given to the next.
    seen: list[Any] = []

    def call(self: Any) -> Any:
        assert all(self is not other for other in seen)
        seen.append(self)
        return function(self)

    return call


def test_the_loop_equals_that_in_torch() -> None:
    x = noise(300, 60)
    matrix = x @ x.T
    diagonal = matrix.diagonal().contiguous()
    one = numba_backend.select_from_kernel(matrix, diagonal, 50)
    assert torch.equal(one, torch_backend.greedy_map(matrix[None], diagonal[None], 50)[0])


@pytest.mark.parametrize("has_onednn", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_products_are_those_of_float64(has_onednn: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: has_onednn)
    generator = torch.Generator().manual_seed(0)
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-12, torch.bfloat16: 1.0}[dtype]
    for m, n, dim in [(1, 1, 1), (3, 70, 5), (64, 64, 300), (65, 130, 1024)]:
        # Rows that are and are not next to each other.
        a = torch.randn(m, 2 * dim, generator=generator).to(dtype)[:, :dim]
        b = torch.randn(n, dim, generator=generator).to(dtype)
        found = products(a, b)
        assert found.dtype == dtype
        assert torch.allclose(found.double(), a.double() @ b.double().T, atol=tolerance)
