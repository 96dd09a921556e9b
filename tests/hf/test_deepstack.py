"""Deepstack features of a shortened sequence."""

from __future__ import annotations

import torch

from framefusion.hf.deepstack import DeepStack

VISUAL = torch.tensor([[False, True, True, True, False], [False, False, True, True, True]])
FEATURES = [torch.tensor([[1.0], [2.0], [4.0], [8.0], [16.0], [32.0]]), torch.full((6, 1), 100.0)]


def test_each_token_gets_the_mean_of_what_it_holds() -> None:
    stack = DeepStack(VISUAL, FEATURES)
    # The first sample merged 2 into 1 and dropped 3; the second dropped its text and merged 3 and 4 into 2.
    columns = torch.tensor([[0, 1, 4], [-1, -1, 2]])
    merged_into = torch.tensor([[0, 1, 1, -1, 4], [-1, -1, 2, 2, 2]])
    hidden = torch.full((2, 3, 1), 1000.0)
    added = stack.add(0, hidden, columns, merged_into) - hidden
    torch.testing.assert_close(added[..., 0], torch.tensor([[0, 1.5, 0], [0, 0, 56 / 3]]), atol=1e-3, rtol=0)
    assert torch.equal(hidden, torch.full((2, 3, 1), 1000.0))


def test_features_belong_to_their_layer() -> None:
    stack = DeepStack(VISUAL, FEATURES)
    columns = torch.arange(5).expand(2, -1)
    hidden = torch.zeros(2, 5, 1)
    assert torch.equal(stack.add(0, hidden, columns, columns)[VISUAL], FEATURES[0])
    assert torch.equal(stack.add(1, hidden, columns, columns)[VISUAL], FEATURES[1])
    assert stack.add(2, hidden, columns, columns) is hidden


def test_half_precision_stays() -> None:
    stack = DeepStack(VISUAL, [features.bfloat16() for features in FEATURES])
    columns = torch.arange(5).expand(2, -1)
    assert stack.add(0, torch.zeros(2, 5, 1, dtype=torch.bfloat16), columns, columns).dtype == torch.bfloat16
