from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from framefusion.reduction import relevance


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_attention_received_equals_full_softmax_attention(groups: int) -> None:
    generator = torch.Generator().manual_seed(groups)
    query = torch.randn(2, 4, 9, 8, generator=generator)
    key = torch.randn(2, groups, 9, 8, generator=generator)
    valid = torch.ones(2, 9, dtype=torch.bool)
    valid[0, :3] = False
    rows = torch.tensor([[-1, 6, 8], [0, 4, 8]])
    scores = query @ key.repeat_interleave(4 // groups, dim=1).transpose(2, 3) * 0.3
    visible = torch.ones(9, 9, dtype=torch.bool).tril() & valid[:, None, None, :]
    full = scores.masked_fill(~visible, float("-inf")).softmax(-1).mean(1)
    expected = torch.stack([full[0, [6, 8]].mean(0), full[1, [0, 4, 8]].mean(0)])
    got = relevance.attention_received(query, key, rows, valid, 0.3)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_a_sample_without_rows_receives_nothing() -> None:
    query = key = torch.randn(1, 2, 3, 4)
    got = relevance.attention_received(query, key, torch.tensor([[-1]]), torch.ones(1, 3, dtype=torch.bool), 1.0)
    assert got.tolist() == [[0.0, 0.0, 0.0]]


def test_min_max_follows_the_formula() -> None:
    s = torch.tensor([0.1, 0.4, 0.2])
    torch.testing.assert_close(relevance.min_max(s), (s - 0.1 + 1e-6) / (0.3 + 1e-8))
    torch.testing.assert_close(relevance.min_max(s, -1), (0.4 - s + 1e-6) / (0.3 + 1e-8))
    torch.testing.assert_close(relevance.min_max(s, exponent=0.25), relevance.min_max(s) ** 0.25)
    flat = relevance.min_max(torch.full((3,), 0.2))
    assert torch.isfinite(flat).all()
    assert flat.unique().numel() == 1
    assert relevance.min_max(torch.zeros(0)).shape == (0,)
    with pytest.raises(ValueError, match="sign must be"):
        relevance.min_max(s, 0)


@pytest.mark.parametrize("sign", [1, -1])
@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=30), st.floats(0.25, 2))
def test_what_float32_cannot_tell_apart_keeps_its_order(sign: int, steps: list[int], exponent: float) -> None:
    """Attention of a float64 model that differs by less than a float32 has digits for."""
    scores = 0.01 + 1e-13 * torch.tensor(steps, dtype=torch.float64)
    assert scores.float().unique().numel() <= 3
    scaled = relevance.min_max(torch.cat([scores, torch.tensor([0.02], dtype=torch.float64)]), sign, exponent)[:-1]
    assert scaled.dtype == torch.float64
    assert torch.equal(scaled.argsort(stable=True), (sign * scores).argsort(stable=True))
    assert relevance.min_max(scores.float()).dtype == relevance.min_max(scores.half()).dtype == torch.float32


def test_attention_and_similarity_of_a_float64_model_stay_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 2, 7, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    visible = torch.ones(7, 7, dtype=torch.bool).tril()
    full = (query @ key.transpose(2, 3) * 0.5).masked_fill(~visible, float("-inf")).softmax(-1).mean(1)
    got = relevance.attention_received(query, key, torch.tensor([[3, 6]]), torch.ones(1, 7, dtype=torch.bool), 0.5)
    torch.testing.assert_close(got, full[:, [3, 6]].mean(1), rtol=1e-13, atol=0)
    features, question = query[0, 0], key[0, 0]
    expected = torch.stack([torch.cosine_similarity(x[None], question).max() for x in features])
    torch.testing.assert_close(relevance.question_similarity(features, question), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("entries", [1, 40, 1 << 24])
def test_attention_received_from_all_equals_full_attention(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relevance, "SCORE_ENTRIES", entries)
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(3, 2, 7, 4, generator=generator) for _ in range(2))
    expected = torch.stack(
        [
            torch.stack([(0.7 * key[b, h] @ query[b, h, row]).softmax(0) for h in range(2) for row in range(7)]).mean(0)
            for b in range(3)
        ]
    )
    got = relevance.attention_received_from_all(query, key, 0.7)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(got.sum(1), torch.ones(3))
    assert relevance.attention_received_from_all(query.double(), key.double(), 0.7).dtype == torch.float64


def test_similarity_is_the_largest_cosine_with_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    features, question = torch.randn(11, 6, generator=generator), 100 * torch.randn(4, 6, generator=generator)
    features[3] = 0
    expected = [max(float(torch.cosine_similarity(x, q, dim=0)) for q in question) for x in features]
    torch.testing.assert_close(relevance.question_similarity(features, question), torch.tensor(expected))
    half = relevance.question_similarity(features.bfloat16(), question.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, torch.tensor(expected), atol=2e-2, rtol=0)
    monkeypatch.setattr(relevance, "SCORE_ENTRIES", 25)
    torch.testing.assert_close(relevance.question_similarity(features, question), torch.tensor(expected))
    assert relevance.question_similarity(features, question[:0]).tolist() == [0.0] * 11
    assert relevance.question_similarity(features[:0], question).shape == (0,)


def test_query_rows() -> None:
    visual = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 0, 1, 1], [0, 1, 0, 0, 0]]).bool()
    valid = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 1, 0]]).bool()
    assert relevance.query_rows(visual, valid, "last").tolist() == [[4], [4], [3]]
    assert relevance.query_rows(visual, valid, "text").tolist() == [[3, 4], [-1, 4], [2, 3]]
    everyone = [row.nonzero().flatten().tolist() for row in valid]
    rows = relevance.query_rows(visual, valid, "all").tolist()
    assert [[column for column in row if column >= 0] for row in rows] == everyone
    with pytest.raises(ValueError, match="which must be 'last', 'text' or 'all', got 'none'"):
        relevance.query_rows(visual, valid, "none")


@pytest.mark.parametrize("kind", ["causal", "bool", "added"])
@pytest.mark.parametrize("per_viewer", [False, True])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_attention_received_behind_earlier_turns(
    kind: str, per_viewer: bool, softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys of earlier turns, the layer's own mask, padding, capped scores and few rows at a time, as in a textbook."""
    monkeypatch.setattr(relevance, "SCORE_ENTRIES", 60)
    torch.manual_seed(0)
    held, length, heads, groups = 3, 6, 4, 2
    query = torch.randn(2, heads, length, 8)
    key = torch.randn(2, groups, held + length, 8)
    valid = torch.ones(2, held + length, dtype=torch.bool)
    valid[0, :2] = valid[1, held] = False
    rows = torch.tensor([[-1, 2, 5], [1, 3, 4]])
    seen = torch.ones(length, held + length, dtype=torch.bool).tril(held)
    mask = None
    if kind != "causal":
        # A window and a block that sees forward, as in Gemma 3.
        seen = seen.triu(held - 3)
        seen[1:4, held + 1 : held + 4] = True
        mask = seen[None, None] if kind == "bool" else torch.zeros(1, 1, *seen.shape).masked_fill(~seen, -1e9)
    got = relevance.attention_received(query, key, rows, valid, 0.3, mask=mask, per_viewer=per_viewer, softcap=softcap)
    for b in range(2):
        asked = [row for row in rows[b].tolist() if row >= 0]
        total, viewers = torch.zeros(held + length), torch.zeros(held + length)
        for row in asked:
            visible = seen[row] & valid[b]
            scores = torch.stack([query[b, h, row] @ key[b, h // 2].T for h in range(heads)]) * 0.3
            scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
            total += scores.masked_fill(~visible, float("-inf")).softmax(-1).mean(0)
            viewers += visible
        expected = total / (viewers.clamp_min(1) if per_viewer else len(asked))
        torch.testing.assert_close(got[b], expected)


def test_no_square_matrix_is_made() -> None:
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.numel = max(self.numel, out.numel())
            return out

    length = 512
    query = key = torch.randn(1, 2, length, 8)
    with Largest() as seen:
        relevance.attention_received(
            query, key, torch.tensor([[length - 2, length - 1]]), torch.ones(1, length, dtype=torch.bool), 1.0
        )
    assert seen.numel <= query.numel()


def test_dissimilarity_is_the_change_at_the_same_place() -> None:
    # Two frames of two places, shuffled; the second place stands still.
    features = torch.tensor([[0.0, 2.0], [1.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
    frames, patches = torch.tensor([1, 0, 0, 1]), torch.tensor([0, 0, 1, 1])
    torch.testing.assert_close(relevance.dissimilarity(features, frames, patches), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert relevance.dissimilarity(-features, frames, patches)[3] == 0
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.bfloat16)
    got = relevance.dissimilarity(opposite, torch.tensor([0, 1]), torch.tensor([5, 5]))
    assert got.tolist() == [1.0, 2.0]
    assert got.dtype == torch.float32
    assert len(relevance.dissimilarity(features[:0], frames[:0], patches[:0])) == 0
