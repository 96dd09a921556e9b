"""Budgets as upper bounds: a segment stops where its remaining tokens are spanned by those it keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from framefusion.selection import select_tokens, split_total
from tests.selection.conftest import FAST, small, use
from tests.selection.oracle import noise, weights


def unspanned(features: Tensor, chosen: list[int], rest: list[int]) -> float:
    """The largest share of the squared norm that least squares on the chosen rows leaves of another row."""
    x = features.double().numpy()
    shares = [0.0]
    for i in rest:
        if np.linalg.norm(x[i]) > 0:
            residual = x[i]
            if chosen:
                residual = x[i] - x[chosen].T @ np.linalg.lstsq(x[chosen].T, x[i], rcond=None)[0]
            shares.append(float(np.square(residual).sum() / np.square(x[i]).sum()))
    return max(shares)


def stopped(features: Tensor, sequence: list[int], members: list[int], bound: float) -> int:
    """How many tokens of a greedy sequence come before the first that finds too little left."""
    for t in range(len(sequence)):
        if unspanned(features, sequence[:t], [i for i in members if i not in sequence[:t]]) < bound:
            return t
    return len(sequence)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("name", [*FAST, "reference"])
@pytest.mark.parametrize(("bound", "at_least"), [(0.05, 0), (0.3, 0), (0.3, 14), (0.9, 5), (1.0, 1)])
def test_segments_stop_where_nothing_new_is_left(
    name: str, joint: bool, bound: float, at_least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if joint and name in ("triton-steps", "triton-gram-schmidt") and small(name):
        pytest.skip("too slow in an interpreter")
    total = 16 if small(name) else 30
    name = use(name, monkeypatch)
    # Segment 0 has rank 3 and some noise, segment 1 is noise, segment 2 is one token and its copies.
    features = torch.cat(
        [
            noise(20, 3, dtype=torch.float64) @ noise(3, 32, seed=1, dtype=torch.float64) + 0.1 * noise(20, 32, seed=2),
            noise(12, 32, seed=3),
            noise(1, 32, seed=4) + 0.01 * noise(10, 32, seed=5),
        ]
    )
    ids = torch.tensor([0] * 20 + [1] * 12 + [2] * 10)
    r = weights(42)
    options: dict[str, Any] = {"backend": name, "joint": joint}
    most = select_tokens(features, r, ids, total, **options)
    assert isinstance(most, Tensor)
    kept = select_tokens(features, r, ids, total, novelty_lower_bound=bound, at_least=at_least, **options)
    assert isinstance(kept, Tensor)
    sequences = [most[ids[most] == s].tolist() for s in range(3)]
    least = split_total(at_least, [len(s) for s in sequences])
    expected = []
    for s, (sequence, low) in enumerate(zip(sequences, least, strict=True)):
        members = (ids == s).nonzero().flatten().tolist()
        expected += sequence[: max(low, stopped(features, sequence, members, bound))]
    assert kept.tolist() == expected
    assert len(kept) >= at_least


@given(st.integers(0, 99), st.integers(0, 60), st.integers(0, 60), st.floats(0, 1))
def test_more_is_kept_the_lower_the_bound(seed: int, total: int, at_least: int, bound: float) -> None:
    features = noise(50, 6, seed=seed) @ noise(6, 24, seed=seed + 1) + 0.2 * noise(50, 24, seed=seed + 2)
    ids = torch.randint(-1, 4, (50,), generator=torch.Generator().manual_seed(seed))
    present = int((ids >= 0).sum())

    def kept(bound: float) -> set[int]:
        rows = select_tokens(features, weights(50), ids, total, novelty_lower_bound=bound, at_least=at_least)
        assert isinstance(rows, Tensor)
        return set(rows.tolist())

    assert kept(0.0) >= kept(bound / 2) >= kept(bound) >= kept(1.0)
    assert len(kept(0.0)) == min(total, present)
    assert len(kept(bound)) >= min(at_least, total, present)


def test_a_still_video_keeps_less_than_a_moving_one(backend: str, interpreted: bool) -> None:
    n = 32 if interpreted else 80
    ids = torch.arange(n) // (n // 4)
    still = noise(1, 32).repeat(n, 1) + 0.01 * noise(n, 32, seed=1)
    counts = [
        len(select_tokens(x, None, ids, n // 2, novelty_lower_bound=0.2, backend=backend))
        for x in (still, noise(n, 32))
    ]
    assert counts == [4, n // 2]


def test_zero_vectors_are_nothing_new(backend: str) -> None:
    features, ids = torch.zeros(6, 4), [0, 0, 0, 1, 1, 1]
    features[4, 0] = 1
    for joint in (False, True):
        options: dict[str, Any] = {"backend": backend, "joint": joint, "novelty_lower_bound": 0.01}
        assert select_tokens(features, None, ids, 4, **options).tolist() == [4]
        assert len(select_tokens(features, None, ids, 4, at_least=3, **options)) == 3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"novelty_lower_bound": 1.1}, ValueError, r"novelty_lower_bound must be in \[0, 1\], got 1.1"),
        ({"novelty_lower_bound": float("nan")}, ValueError, r"novelty_lower_bound must be in \[0, 1\], got nan"),
        ({"novelty_lower_bound": "0.1"}, TypeError, "novelty_lower_bound must be a number, got '0.1'"),
        ({"novelty_lower_bound": True}, TypeError, "novelty_lower_bound must be a number, got True"),
        ({"at_least": -1}, ValueError, "at_least must be >= 0, got -1"),
    ],
)
def test_bad_bounds_are_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        select_tokens(noise(4, 3), None, None, 2, **options)
