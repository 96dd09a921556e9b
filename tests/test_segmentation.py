from __future__ import annotations

import pytest
import torch

from framefusion import segmentation


def _grid(frames: int, patches: int) -> tuple[torch.Tensor, torch.Tensor]:
    order = torch.arange(frames * patches)
    return order // patches, order % patches


def test_scores_are_the_share_of_similar_patches() -> None:
    frame, patch = _grid(4, 4)
    base = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    second = base.clone()
    second[0] = -base[0]
    features = torch.cat([base, second, second, -second])
    scores = segmentation.frame_scores(features, frame, patch, 0.6)
    torch.testing.assert_close(scores, torch.tensor([0.0, 0.75, 1.0, 0.0]))


def test_scores_follow_the_formula_in_any_token_order() -> None:
    generator = torch.Generator().manual_seed(1)
    frame, patch = _grid(5, 6)
    features = torch.randn(30, 3, generator=generator)
    expected = torch.zeros(5)
    for f in range(1, 5):
        similar = [
            torch.cosine_similarity(features[f * 6 + p], features[(f - 1) * 6 + p], dim=0) > 0.3 for p in range(6)
        ]
        expected[f] = torch.stack(similar).float().mean()
    order = torch.randperm(30, generator=generator)
    torch.testing.assert_close(segmentation.frame_scores(features, frame, patch, 0.3), expected)
    torch.testing.assert_close(segmentation.frame_scores(features[order], frame[order], patch[order], 0.3), expected)


def test_a_missing_frame_breaks_the_chain() -> None:
    frame, patch = torch.tensor([0, 2]), torch.tensor([0, 0])
    assert segmentation.frame_scores(torch.ones(2, 4), frame, patch, 0.6).tolist() == [0.0, 0.0, 0.0]


def test_a_low_score_starts_a_segment() -> None:
    scores = torch.tensor([0.0, 0.9, 0.39, 0.4, 0.1])
    assert segmentation.by_frame_similarity(scores, 0.4).tolist() == [0, 0, 1, 1, 2]


def test_windows_and_one_segment() -> None:
    assert segmentation.fixed_windows(5, 2).tolist() == [0, 0, 1, 1, 2]
    assert segmentation.one_segment(3).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="window must be at least 1 frame, got 0"):
        segmentation.fixed_windows(5, 0)


def test_no_tokens() -> None:
    empty = torch.zeros(0, dtype=torch.long)
    assert segmentation.frame_scores(torch.zeros(0, 4), empty, empty, 0.6).shape == (0,)
    assert segmentation.by_frame_similarity(torch.zeros(0)).shape == (0,)
