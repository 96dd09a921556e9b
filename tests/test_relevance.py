from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from framefusion import relevance


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
    flat = relevance.min_max(torch.full((3,), 0.2))
    assert torch.isfinite(flat).all()
    assert flat.unique().numel() == 1
    assert relevance.min_max(torch.zeros(0)).shape == (0,)
    with pytest.raises(ValueError, match="sign must be"):
        relevance.min_max(s, 0)


def test_query_rows() -> None:
    visual = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 0, 1, 1], [0, 1, 0, 0, 0]]).bool()
    valid = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 1, 0]]).bool()
    assert relevance.query_rows(visual, valid, "last").tolist() == [[4], [4], [3]]
    assert relevance.query_rows(visual, valid, "text").tolist() == [[3, 4], [-1, 4], [2, 3]]
    with pytest.raises(ValueError, match="which must be 'last' or 'text'"):
        relevance.query_rows(visual, valid, "all")


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
