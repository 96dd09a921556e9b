"""One total for all segments: the merge of their greedy sequences is the greedy of the block-diagonal kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from framefusion.selection import joint, select_tokens
from framefusion.selection.numerics import EXHAUSTION_FACTOR
from tests.selection.conftest import FAST, small, use
from tests.selection.oracle import decided_steps, greedy_by_determinants, kernel, noise, weights
from tests.selection.test_backends import Problem, problems


@pytest.fixture(autouse=True)
def one_of_the_interpreted(request: pytest.FixtureRequest) -> None:
    """The merge knows nothing of backends; of the slow ones it is tested on one."""
    name = getattr(request.node, "callspec", None) and request.node.callspec.params.get("backend", "")
    if name in ("triton-steps", "triton-gram-schmidt") and small(name):
        pytest.skip("too slow in an interpreter")


def block_diagonal(problem: Problem) -> np.ndarray:
    ids = problem.ids.numpy()
    return kernel(problem.features, problem.relevance, problem.gamma) * (ids[:, None] == ids[None, :])


@pytest.mark.parametrize("seed", range(5))
def test_the_reference_maximises_the_determinant_over_all_segments(seed: int) -> None:
    features, ids = noise(15, 20, seed=seed, dtype=torch.float64), torch.arange(15) % 3
    problem = Problem(features, weights(15, seed=seed), ids, {}, None)
    chosen = select_tokens(features, problem.relevance, ids, 9, joint=True, backend="reference").tolist()
    expected = greedy_by_determinants(block_diagonal(problem), 9)
    assert sorted(chosen) == sorted(expected)
    assert ids[chosen].tolist() == sorted(ids[chosen].tolist())
    for segment in range(3):
        assert [i for i in chosen if ids[i] == segment] == [i for i in expected if ids[i] == segment]


@pytest.mark.parametrize("exhausted", ["fill", "stop"])
@pytest.mark.parametrize("name", FAST)
def test_fuzz_against_the_reference(name: str, exhausted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = use(name, monkeypatch)

    # 60, and 120 in `make test-all`.
    examples = 6 * settings.default.max_examples // 5

    @settings(max_examples=4 if small(name) else examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(problems(24 if small(name) else 60), st.integers(0, 70))
    def fuzz(problem: Problem, total: int) -> None:
        arguments = (problem.features, problem.relevance, problem.ids, total)
        options: Any = {"exhausted": exhausted, "joint": True, "gamma": problem.gamma}
        mine = select_tokens(*arguments, backend=backend, **options)
        textbook = select_tokens(*arguments, backend="reference", **options)
        assert isinstance(mine, torch.Tensor)
        assert isinstance(textbook, torch.Tensor)
        present = problem.ids[problem.ids >= 0]
        if exhausted == "fill":
            assert len(mine) == len(mine.unique()) == min(total, len(present))
            if total >= len(present.unique()):
                assert set(problem.ids[mine].tolist()) == set(present.tolist())
        if decided(problem, textbook):
            assert mine.tolist() == textbook.tolist()

    fuzz()


def decided(problem: Problem, chosen: torch.Tensor) -> bool:
    """Whether no step of the greedy over all segments, each segment's first tokens aside, was near a tie."""
    full = block_diagonal(problem)
    rows = (problem.ids >= 0).nonzero().flatten().numpy()
    greedy = full[np.ix_(rows, rows)]
    # The order in which the joint greedy meets what it chose: by gain, which this finds again.
    places = np.searchsorted(rows, chosen.numpy()).tolist()
    steps = greedy_order(greedy, places)
    return decided_steps(greedy, steps, 1e-9, EXHAUSTION_FACTOR * torch.finfo(torch.float64).eps) == len(places)


def greedy_order(matrix: np.ndarray, places: list[int]) -> list[int]:
    inside = matrix[np.ix_(places, places)]
    return [places[i] for i in greedy_by_determinants(inside, len(places))] if places else []


@pytest.mark.parametrize("start", [0.05, 2.0, 50.0])
def test_sequences_grow_where_the_gains_are(
    start: float, monkeypatch: pytest.MonkeyPatch, backend: str, interpreted: bool
) -> None:
    """One segment of noise, three of nearly the same token: nearly all of the budget goes to the first one."""
    n = 12 if interpreted else 40
    still = [noise(1, 64, seed=s) + 1e-3 * noise(n, 64, seed=s + 9) for s in range(3)]
    features = torch.cat([noise(n, 64), *still])
    ids = torch.arange(4 * n) // n
    expected = select_tokens(features, None, ids, n, joint=True, backend="reference")
    assert torch.bincount(ids[expected]).tolist() == [n - 3, 1, 1, 1]
    monkeypatch.setattr(joint, "GREEDY_START", start)
    assert torch.equal(select_tokens(features, None, ids, n, joint=True, backend=backend), expected)


def test_equals_the_own_sequences_of_the_segments(backend: str, interpreted: bool) -> None:
    n, total = (56, 21) if interpreted else (300, 90)
    features, r, ids = noise(n, 96), weights(n), torch.arange(n) % 7
    kept, gains = select_tokens(features, r, ids, total, joint=True, backend=backend, return_gains=True)
    assert isinstance(kept, torch.Tensor)
    assert isinstance(gains, torch.Tensor)
    counts = torch.bincount(ids[kept], minlength=7)
    assert counts.min() >= 1
    alone, same = select_tokens(features, r, ids, counts.tolist(), backend=backend, return_gains=True)
    assert torch.equal(kept, alone)
    assert torch.equal(gains, same)
    # No token left out would have gained more than one that is kept beyond the first of its segment.
    firsts = torch.tensor([0, *counts[:-1]]).cumsum(0)
    others = torch.ones(total, dtype=torch.bool)
    others[firsts] = False
    _, more = select_tokens(features, r, ids, (counts + 1).tolist(), backend=backend, return_gains=True)
    assert isinstance(more, torch.Tensor)
    next_gain = more[(counts + 1).cumsum(0) - 1]
    assert gains[others].min() >= next_gain.max()


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
def test_scale_of_the_relevance_does_not_matter(backend: str, scale: float) -> None:
    features, r, ids = noise(60, 24), weights(60), torch.arange(60) % 4
    expected = select_tokens(features, r, ids, 25, joint=True, backend="reference")
    assert torch.equal(select_tokens(features, r * scale, ids, 25, joint=True, backend=backend), expected)


def test_segments_that_matter_little_get_their_token_if_the_total_allows(backend: str) -> None:
    features, ids = noise(40, 24), torch.arange(40) // 10
    r = weights(40) * torch.tensor([1e-6, 1.0, 1e-5, 1.0])[ids]
    for name in (backend, "reference"):
        for total in (3, 4, 12):
            kept = select_tokens(features, r, ids, total, joint=True, backend=name)
            assert len(kept) == total
            # Three tokens are too few for four segments: then only the gains count.
            assert set(ids[kept].tolist()) <= {1, 3} if total == 3 else len(ids[kept].unique()) == 4
        assert torch.bincount(ids[kept]).tolist()[::2] == [1, 1]


def test_segments_of_zeros_get_their_token_and_the_rest_is_filled_by_relevance(backend: str) -> None:
    features = torch.zeros(8, 3)
    features[0, 0] = features[1, 1] = features[2, 2] = 1
    ids = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    r = torch.tensor([0.5, 0.6, 0.7, 0.8, 0.1, 0.2, 0.4, 0.3])
    for name in (backend, "reference"):

        def chosen(total: int, name: str = name, **options: str) -> list[int]:
            kept = select_tokens(features, r, ids, total, joint=True, backend=name, **options)
            assert isinstance(kept, torch.Tensor)
            return kept.tolist()

        assert chosen(2) == [2, 1]
        assert chosen(3) == [2, 5, 6]
        assert chosen(4) == [2, 1, 5, 6]
        assert chosen(6) == [2, 1, 0, 3, 5, 6]
        assert chosen(9) == [2, 1, 0, 3, 5, 4, 6, 7]
        assert chosen(9, exhausted="stop") == [2, 1, 0]


def test_edges(backend: str) -> None:
    features = noise(6, 4)
    assert select_tokens(features, None, None, 0, joint=True, backend=backend).shape == (0,)
    assert select_tokens(features[:0], None, None, 3, joint=True, backend=backend).shape == (0,)
    assert select_tokens(features, None, torch.full((6,), -1), 3, joint=True, backend=backend).shape == (0,)
    ids = torch.tensor([0, -1, 2, 2, -1, 0])
    assert sorted(select_tokens(features, None, ids, 99, joint=True, backend=backend).tolist()) == [0, 2, 3, 5]
    features[1] = torch.nan
    assert len(select_tokens(features, None, ids, 3, joint=True, backend=backend)) == 3
    features[3, 2] = torch.nan
    for name in (backend, "reference"):
        with pytest.raises(ValueError, match=r"features must be finite, got nan at position \(3, 2\)"):
            select_tokens(features, None, ids, 3, joint=True, backend=name)


def test_batch_and_default_device(backend: str) -> None:
    features, r = noise(3, 40, 16), weights(3, 40)
    ids = torch.randint(-1, 4, (3, 40), generator=torch.Generator().manual_seed(0))
    with torch.device("meta"):
        together = select_tokens(features, r, ids, 12, joint=True, backend=backend)
    for b in range(3):
        assert torch.equal(together[b], select_tokens(features[b], r[b], ids[b], 12, joint=True, backend=backend))


def test_budgets_that_are_no_total_are_refused() -> None:
    with pytest.raises(ValueError, match=r"budgets must be one integer with joint=True.*got \[2, 1\]"):
        select_tokens(noise(4, 3), None, [0, 0, 1, 1], [2, 1], joint=True)
    with pytest.raises(ValueError, match=r"budgets must be one integer with joint=True.*got \{0: 2\}"):
        select_tokens(noise(4, 3), None, None, {0: 2}, joint=True)
