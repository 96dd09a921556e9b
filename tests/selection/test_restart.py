"""A new greedy over what is left, and the most similar kept token, from one set of Gram matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framefusion.selection import select_and_assign, select_tokens
from framefusion.selection.nearest import most_similar_kept
from tests.selection.oracle import noise, weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_restarts_equal_one_greedy_after_the_other(backend: str, dtype: torch.dtype) -> None:
    features, r = noise(60, 7, seed=3, dtype=dtype), weights(60)
    ids = torch.arange(60) % 2
    together = select_tokens(features, r, ids, [20, 16], backend=backend, exhausted="restart")
    for segment, count in ((0, 20), (1, 16)):
        left, expected = (ids == segment).nonzero().flatten(), []
        while len(expected) < count:
            chosen = select_tokens(
                features[left], r[left], None, count - len(expected), backend="reference", exhausted="stop"
            )
            expected += left[chosen].tolist()
            left = left[~torch.isin(torch.arange(len(left)), chosen)]
        assert together[ids[together] == segment].tolist() == expected


def test_restarts_of_many_tokens_have_their_gains() -> None:
    """More tokens than a block of the compiled greedy holds, and less than a block left for the last one."""
    features, r = noise(200, 7, dtype=torch.float64), weights(200)
    chosen, gains = select_tokens(features, r, None, 190, backend="numba", exhausted="restart", return_gains=True)
    expected, own = select_tokens(features, r, None, 190, backend="reference", exhausted="restart", return_gains=True)
    assert torch.equal(chosen, expected)
    torch.testing.assert_close(gains, own, rtol=1e-6, atol=1e-12)


def test_the_reference_restarts_too() -> None:
    features = noise(20, 4, dtype=torch.float64)
    first = select_tokens(features, None, None, 11, backend="reference", exhausted="restart")
    assert torch.equal(first, select_tokens(features, None, None, 11, exhausted="restart"))


def test_zero_vectors_fill_up_after_the_last_restart(backend: str) -> None:
    features = torch.zeros(9, 3)
    features[[2, 5]] = torch.tensor([[1.0, 0, 0], [2.0, 0, 0]])
    chosen = select_tokens(features, None, None, 5, backend=backend, exhausted="restart")
    assert chosen.tolist() == [2, 5, 0, 1, 3]


def test_restarts_compare_no_gains() -> None:
    for extra in ({"joint": True}, {"novelty_lower_bound": 0.1}):
        with pytest.raises(ValueError, match="exhausted must be 'fill' or 'stop' with joint"):
            select_tokens(noise(5, 3), None, None, 2, exhausted="restart", **extra)


@given(data=st.data())
def test_assigned_tokens_are_the_most_similar_kept_ones(data: st.DataObject) -> None:
    count, segments = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 500)))
    features = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    if data.draw(st.booleans()):
        features = features[torch.randint(count, (count,), generator=generator)]
    features[torch.rand(count, generator=generator) < 0.1] = 0
    ids = torch.randint(-1, segments, (count,), generator=generator)
    budgets = {i: data.draw(st.integers(0, 12)) for i in range(segments)}
    choices: Any = {"exhausted": data.draw(st.sampled_from(["fill", "stop", "restart"]))}
    choices["gamma"] = data.draw(st.sampled_from([None, 0.5, 3.0]))
    chosen, nearest, similarity = select_and_assign(features, None, ids, budgets, **choices)
    assert torch.equal(chosen, select_tokens(features, None, ids, budgets, **choices))
    kept = torch.zeros(count, dtype=torch.bool)
    kept[chosen] = True
    expected, cosine = most_similar_kept(features, ids, kept)
    torch.testing.assert_close(similarity, cosine, atol=1e-5, rtol=0)
    assert torch.equal(nearest < 0, expected < 0)
    for i in (nearest >= 0).nonzero().flatten().tolist():
        best = torch.cosine_similarity(features[i], features[int(expected[i])], dim=0)
        own = torch.cosine_similarity(features[i], features[int(nearest[i])], dim=0)
        assert kept[nearest[i]]
        assert ids[nearest[i]] == ids[i]
        assert bool(kept[i]) == (int(nearest[i]) == i)
        assert kept[i] or abs(float(best - own)) < 1e-5


def test_long_segments_are_assigned_without_a_gram_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    from framefusion.selection import plan

    features, ids = noise(30, 5), torch.arange(30) // 15
    short = select_and_assign(features, None, ids, [4, 5])
    monkeypatch.setattr(plan, "LONG_SEGMENT", 10)
    long = select_and_assign(features, None, ids, [4, 5])
    assert torch.equal(short[0], long[0])
    assert torch.equal(short[1], long[1])


def test_assigning_names_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"features must have shape \(N, D\)"):
        select_and_assign(noise(2, 5, 3), None, torch.zeros(5, dtype=torch.long), 2)
    bad = noise(5, 3)
    bad[3, 1] = torch.nan
    with pytest.raises(ValueError, match=r"features .*nan.*\(3, 1\)|features\[3, 1\]"):
        select_and_assign(bad, None, torch.zeros(5, dtype=torch.long), 2)


def test_ties_between_kept_tokens_go_to_the_earliest() -> None:
    for seed in range(50):
        a, b = noise(2, 16, seed=seed)
        features, ids = torch.stack([a, b, a]), torch.zeros(3, dtype=torch.long)
        relevance = torch.tensor([1.0, 0.0, 1.0])
        chosen, nearest, _ = select_and_assign(features, relevance, ids, {0: 2})
        assert sorted(chosen.tolist()) == [0, 2]
        assert nearest.tolist() == [0, 0, 2]


def test_the_default_dtype_does_not_matter() -> None:
    features, kept = noise(9, 4), torch.arange(9) % 2 == 0
    expected = most_similar_kept(features, torch.zeros(9, dtype=torch.long), kept)
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = most_similar_kept(features, torch.zeros(9, dtype=torch.long), kept)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, found, expected))
