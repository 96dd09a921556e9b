"""Every fast backend against the reference, on fuzzed input, in all dtypes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from framefusion.selection import select_tokens
from framefusion.selection.numerics import EXHAUSTION_FACTOR
from tests.selection.conftest import FAST, small, use
from tests.selection.oracle import decided_steps, kernel, log_determinant, noise, weights


@dataclass
class Problem:
    features: Tensor
    relevance: Tensor | None
    ids: Tensor
    budgets: dict[int, int]
    gamma: float | None


@st.composite
def problems(draw: st.DrawFn, most: int = 60) -> Problem:
    """Ragged, interleaved segments with duplicates, zero vectors, low rank, skewed relevance and any scale."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    n, dim = draw(st.integers(1, most)), draw(st.integers(1, 40))
    features = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        rank = draw(st.integers(1, dim))
        features = features[:, :rank] @ torch.randn(rank, dim, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        features = features[torch.randint(n, (n,), generator=generator)]
    features[torch.rand(n, generator=generator) < draw(st.sampled_from([0.0, 0.3, 1.0]))] = 0
    features *= 10.0 ** draw(st.integers(-6, 6))
    relevance = torch.rand(n, generator=generator, dtype=torch.float64)
    kind = draw(st.sampled_from(["none", "equal", "random", "skewed", "some zero"]))
    if kind == "equal":
        relevance[:] = 100.0
    elif kind == "skewed":
        relevance = (relevance**8).clamp_min(1e-6)
    elif kind == "some zero":
        relevance[relevance < 0.3] = 0
    segments = draw(st.integers(1, 6))
    ids = torch.randint(-1, segments, (n,), generator=generator)
    if draw(st.booleans()):
        ids = ids.sort().values
    order = draw(st.permutations(range(segments)))
    budgets = {i: draw(st.integers(0, n + 3)) for i in order}
    gamma = draw(st.sampled_from([None, 0.02, 1.0, 8.0]))
    return Problem(features, None if kind == "none" else relevance, ids, budgets, gamma)


def check(problem: Problem, name: str, dtype: torch.dtype, exhausted: str) -> None:
    features = problem.features.to(dtype)
    arguments = (features, problem.relevance, problem.ids, problem.budgets)
    reference = select_tokens(*arguments, backend="reference", exhausted=exhausted, gamma=problem.gamma)
    selected = select_tokens(*arguments, backend=name, exhausted=exhausted, gamma=problem.gamma)
    accumulation = torch.float64 if dtype == torch.float64 else torch.float32
    margin = 1e-9 if dtype == torch.float64 else 1e-4
    full = kernel(features, problem.relevance, problem.gamma)
    exhaustion = EXHAUSTION_FACTOR * torch.finfo(accumulation).eps
    if exhausted == "fill":
        lengths = [min(k, int((problem.ids == i).sum())) for i, k in problem.budgets.items()]
        assert len(selected) == len(reference) == sum(lengths)
        assert len(selected.unique()) == len(selected)
        pieces = zip(selected.split(lengths), reference.split(lengths), problem.budgets, strict=True)
    else:
        pieces = (
            (selected[problem.ids[selected] == i], reference[problem.ids[reference] == i], i) for i in problem.budgets
        )
    for mine, textbook, i in pieces:
        assert bool((problem.ids[mine] == i).all())
        rows = (problem.ids == i).nonzero().flatten()
        local = torch.searchsorted(rows, textbook).tolist()
        steps = decided_steps(full[np.ix_(rows, rows)], local, margin, exhaustion)
        assert mine[:steps].tolist() == textbook[:steps].tolist()


@pytest.mark.covering(2)
@pytest.mark.parametrize("exhausted", ["fill", "stop"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FAST)
def test_fuzz_against_the_reference(
    name: str, dtype: torch.dtype, exhausted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = use(name, monkeypatch)

    @settings(max_examples=4 if small(name) else 60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(problems(24 if small(name) else 60))
    def fuzz(problem: Problem) -> None:
        check(problem, backend, dtype, exhausted)

    fuzz()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("gamma", [None, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_and_single_precision_are_as_good_as_float64(
    backend: str, interpreted: bool, dtype: torch.dtype, gamma: float | None, seed: int
) -> None:
    """Contract 1: log-determinants within 1e-3·k and at least 99.5 % of the indices on random data."""
    if interpreted and seed > 0:
        pytest.skip("too slow in an interpreter")
    s, tokens, k, dim = (1, 40, 8, 128) if interpreted else (4, 196, 98, 512)
    # A shared direction, as in the tokens of one frame: cosines near 0.9 make rounded products visible.
    features = (noise(s * tokens, dim, seed=seed) + 3 * noise(1, dim, seed=seed + 9)).to(dtype)
    r = weights(s * tokens, seed=seed)
    ids = torch.arange(s).repeat_interleave(tokens)
    chosen = select_tokens(features, r, ids, [k] * s, backend=backend, gamma=gamma).split(k)
    exact = select_tokens(features.double(), r, ids, [k] * s, backend="reference", gamma=gamma).split(k)
    full = kernel(features, r, gamma)
    for mine, best in zip(chosen, exact, strict=True):
        assert abs(log_determinant(full, mine) - log_determinant(full, best)) <= 1e-3 * k
    agreement = torch.isin(torch.cat(exact), torch.cat(chosen)).double().mean()
    assert agreement >= 0.995


def test_bfloat16_gram_is_not_rounded_to_bfloat16(backend: str) -> None:
    """Two tokens a little off a third: rounding the products to 8 bits would hide which is further away."""
    features = torch.zeros(3, 64, dtype=torch.bfloat16)
    features[:, :32] = 1
    features[1, 32] = 0.25
    features[2, 32] = 0.3125
    assert select_tokens(features, None, None, 2, backend=backend).tolist() == [0, 2]


def test_backends_agree_on_a_video_sized_input() -> None:
    features, r = noise(16 * 196, 256), weights(16 * 196)
    ids = torch.arange(16).repeat_interleave(196)
    numba, plain = (select_tokens(features, r, ids, [50] * 16, backend=b) for b in ("numba", "torch"))
    assert torch.equal(numba, plain)
