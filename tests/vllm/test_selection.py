from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framefusion.reduction.budgets import total_kept
from framefusion.reduction.layout import VisualItem, VisualLayout
from framefusion.reduction.reducer import Reduction
from framefusion.vllm.selection import retained_count, retention_mask
from framefusion.vllm.settings import ServingSettings

SETTINGS = st.one_of(
    st.builds(ServingSettings, relevance=st.just("dissimilarity"), minimum_per_frame=st.integers(0, 3)),
    st.builds(
        ServingSettings,
        segmentation=st.sampled_from(["frame-similarity", "dyseg", "dp", "windows", "frames", "single"]),
        budget_rule=st.sampled_from(["uniform", "marginal-value", "joint"]),
        minimum_per_frame=st.integers(0, 3),
        keep_first_frame=st.booleans(),
    ),
)


def features_of(grid: tuple[int, int, int], seed: int, copies: float = 0.0) -> torch.Tensor:
    """Random tokens; with ``copies`` as likely as that the token of the frame before."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(grid[0], grid[1] * grid[2], 8, generator=generator)
    still = torch.rand(grid[0], grid[1] * grid[2], generator=generator) < copies
    for t in range(1, grid[0]):
        frames[t] = torch.where(still[t, :, None], frames[t - 1], frames[t])
    return frames.flatten(0, 1)


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 4)),
    st.floats(0, 1, exclude_max=True),
    SETTINGS,
    st.sampled_from([0.0, 0.6, 1.0]),
    st.integers(0, 9),
)
def test_what_was_promised_is_what_stays(
    grid: tuple[int, int, int], rate: float, settings: ServingSettings, copies: float, seed: int
) -> None:
    area = grid[1] * grid[2]
    kept = retention_mask(features_of(grid, seed, copies), grid, rate, settings)
    assert kept.dtype == torch.bool
    assert len(kept) == grid[0] * area
    assert int(kept.sum()) == retained_count(area, grid[0], rate, settings)
    by_frame = kept.reshape(grid[0], area).sum(1)
    assert int(by_frame.min()) >= min(settings.minimum_per_frame, area)
    if settings.keep_first_frame:
        assert by_frame[0] == area


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5, 0.8, 0.99])
def test_the_count_is_the_share_that_stays(rate: float) -> None:
    free = ServingSettings(minimum_per_frame=0)
    assert retained_count(64, 16, rate, free) == max(1, int((1 - rate) * 1024 + 0.5))
    assert retained_count(64, 16, 0.999, ServingSettings()) == 16
    assert retained_count(64, 16, 0.999, ServingSettings(keep_first_frame=True)) == 64 + 15
    assert retained_count(64, 16, 0.999, ServingSettings(minimum_per_frame=100)) == 1024
    assert retained_count(64, 0, rate, free) == 0


def test_shares_that_end_in_a_half_are_rounded_as_elsewhere() -> None:
    settings = ServingSettings(minimum_per_frame=0)
    for tokens in range(1, 400):
        for keep in (0.1, 0.15, 0.2, 0.25, 0.3, 0.5):
            assert retained_count(tokens, 1, 1 - keep, settings) == total_kept(keep, tokens)


def test_a_token_that_overflowed_spoils_itself_only() -> None:
    features = features_of((4, 3, 3), 0)
    features[5], features[20, 2] = float("nan"), float("inf")
    kept = retention_mask(features, (4, 3, 3), 0.5, ServingSettings())
    assert int(kept.sum()) == 18
    assert not kept[[5, 20]].any()


def test_the_mask_is_the_stage_before_the_decoder() -> None:
    grid = (6, 4, 4)
    features = features_of(grid, 0, 0.5)
    settings = ServingSettings(minimum_per_frame=0)
    layout = VisualLayout.of([VisualItem.run("video", grid, 0)])
    reduction = Reduction(settings.reduction(0.25), [layout], torch.ones(1, 96, dtype=torch.bool), layers=2)
    reduction.before_layer(0, features[None])
    assert retention_mask(features, grid, 0.75, settings).nonzero().squeeze(-1).tolist() == (
        reduction.stages[0].kept[0].tolist()
    )


def test_a_still_video_keeps_a_token_of_every_frame() -> None:
    still = features_of((1, 3, 3), 0).repeat(5, 1)
    unpromised = retention_mask(still, (5, 3, 3), 0.8, ServingSettings(minimum_per_frame=0, segmentation="single"))
    assert 0 in unpromised.reshape(5, 9).sum(1)
    assert 0 not in retention_mask(still, (5, 3, 3), 0.8, ServingSettings(segmentation="single")).reshape(5, 9).sum(1)


def test_features_of_another_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="features has 10 rows, but the grid 2×2×2 has 8"):
        retention_mask(torch.ones(10, 4), (2, 2, 2), 0.5, ServingSettings())
