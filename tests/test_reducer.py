from __future__ import annotations

from typing import Any

import pytest
import torch

from framefusion import FrameFusion
from framefusion.budgets import total_kept
from framefusion.layout import VisualItem, VisualLayout, runs
from framefusion.reducer import Reduction

LAYERS = 4
GRIDS = [[(4, 3, 3), (5, 2, 2)], [], [(3, 2, 5)]]


def setup(settings: FrameFusion, seed: int = 0, first: int = 1) -> tuple[Reduction, torch.Tensor]:
    """Three samples of one left-padded batch: two videos, text only, one video."""
    rows, layouts = [], []
    for grids in GRIDS:
        starts, at = [], 3
        for t, h, w in grids:
            starts.append(at)
            at += t * h * w + 2
        rows.append((starts, at))
    length = max(at for _, at in rows)
    valid = torch.zeros(len(GRIDS), length, dtype=torch.bool)
    for b, ((starts, at), grids) in enumerate(zip(rows, GRIDS, strict=True)):
        valid[b, length - at :] = True
        layouts.append(
            VisualLayout.of([VisualItem.run("video", g, length - at + s) for s, g in zip(starts, grids, strict=True)])
        )
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(len(GRIDS), length, 16, generator=generator)
    return Reduction(settings, layouts, valid, LAYERS, first), hidden


def run(settings: FrameFusion, seed: int = 0) -> tuple[Reduction, torch.Tensor]:
    reduction, hidden = setup(settings, seed)
    received = None
    for layer in range(LAYERS):
        hidden = reduction.before_layer(layer, hidden, received)
        assert hidden.shape[:2] == reduction.columns.shape
        received = torch.rand(hidden.shape[:2], generator=torch.Generator().manual_seed(layer))
    return reduction, hidden


@pytest.mark.parametrize("segmentation", ["frame-similarity", "windows", "single"])
@pytest.mark.parametrize("budget_rule", ["uniform", "marginal-value"])
@pytest.mark.parametrize("selector", ["dpp", "topk", "uniform"])
def test_totals_are_exact_per_video(segmentation: Any, budget_rule: Any, selector: str) -> None:
    settings = FrameFusion(
        keep={1: 0.6, 2: 0.33}, segmentation=segmentation, budget_rule=budget_rule, selector=selector, segment_window=2
    )
    reduction, _ = run(settings)
    assert [stage.layer for stage in reduction.stages] == [1, 2]
    for stage, share in zip(reduction.stages, (0.6, 0.33), strict=True):
        for layout, kept in zip(reduction.layouts, stage.kept, strict=True):
            alive = torch.isin(layout.columns, kept)
            for video, (t, h, w) in enumerate(layout.grids):
                assert int(alive[layout.item == video].sum()) == total_kept(share, t * h * w)


def test_every_segment_keeps_a_token() -> None:
    settings = FrameFusion(keep={1: 0.25}, segmentation="windows", segment_window=1)
    reduction, _ = run(settings)
    assert reduction.segments is not None
    for layout, segments, kept in zip(reduction.layouts, reduction.segments, reduction.stages[0].kept, strict=True):
        alive = torch.isin(layout.columns, kept)
        assert set(segments[alive].tolist()) == set(segments.tolist())


def test_videos_never_share_a_segment() -> None:
    reduction, _ = run(FrameFusion(keep=0.5, segmentation="single"))
    assert reduction.segments is not None
    assert reduction.segments[0].unique().tolist() == [0, 1]
    assert torch.equal(reduction.segments[0], reduction.layouts[0].item)


def test_what_stays_is_not_touched_by_pruning() -> None:
    reduction, hidden = setup(FrameFusion(keep={0: 0.5}))
    out = reduction.before_layer(0, hidden)
    for b in range(len(hidden)):
        real = reduction.columns[b] >= 0
        assert torch.equal(out[b, real], hidden[b, reduction.columns[b, real]])


def test_merged_tokens_hold_the_mean_of_their_run() -> None:
    reduction, hidden = setup(FrameFusion(keep={1: 0.3}, merge=True, similarity_lower_bound=0.2))
    before = hidden.clone()
    out = reduction.before_layer(0, hidden)
    assert torch.equal(hidden, before)
    [stage] = reduction.stages
    assert stage.merged_into is not None
    groups = 0
    for b in range(len(hidden)):
        for slot, column in enumerate(reduction.columns[b].tolist()):
            if column >= 0:
                members = (stage.merged_into[b] == column).nonzero().squeeze(-1)
                torch.testing.assert_close(out[b, slot], hidden[b, members].mean(0))
                groups += len(members) > 1
    assert groups


def test_relevance_and_its_sign_decide() -> None:
    for sign in (1, -1):
        settings = FrameFusion(keep={1: 0.4}, selector="topk", segmentation="single", relevance_sign=sign)
        reduction, hidden = setup(settings)
        hidden = reduction.before_layer(0, hidden)
        received = torch.rand(hidden.shape[:2], generator=torch.Generator().manual_seed(1))
        reduction.before_layer(1, hidden, received)
        columns = reduction.layouts[2].columns
        best = (sign * received[2, columns]).topk(total_kept(0.4, len(columns))).indices
        kept = set(reduction.stages[0].kept[2].tolist())
        assert kept & set(columns.tolist()) == set(columns[best].tolist())


def test_attention_is_wanted_only_where_it_is_used() -> None:
    def wanted(settings: FrameFusion) -> list[int]:
        reduction, _ = setup(settings)
        return [layer for layer in range(LAYERS) if reduction.wants_attention(layer)]

    assert wanted(FrameFusion(keep={0: 0.5, 2: 0.3})) == [2]
    assert wanted(FrameFusion(keep={2: 0.3}, relevance="none")) == []
    assert wanted(FrameFusion(cost=0.5)) == [1, 2, 3]
    assert wanted(FrameFusion(keep=1.0)) == []


@pytest.mark.parametrize("merge", [False, True])
def test_the_latest_attention_counts_where_none_was_recorded(merge: bool) -> None:
    """It belongs to columns: slots may have merged or gone since."""
    keep = {3: 0.2} if merge else {2: 0.6, 3: 0.2}
    settings = FrameFusion(
        keep=keep, merge=merge, selector="topk", segmentation="single", similarity_lower_bound=0.4, ratio_lower_bound=0
    )
    reduction, hidden = setup(settings, first=2)
    hidden = reduction.before_layer(0, hidden)
    hidden = reduction.before_layer(1, hidden)
    then = reduction.columns
    received = torch.rand(hidden.shape[:2], generator=torch.Generator().manual_seed(1))
    # Every layer makes other tokens similar.
    hidden = reduction.before_layer(2, hidden.roll(1, 2) + hidden.roll(1, 1), received)
    now = reduction.columns
    reduction.before_layer(3, hidden)
    assert now.shape[1] < then.shape[1]
    for b, layout in enumerate(reduction.layouts):
        of_column = dict(zip(then[b].tolist(), received[b].tolist(), strict=True))
        for item, (t, h, w) in enumerate(layout.grids):
            mine = set(layout.columns[layout.item == item].tolist())
            left = sorted(mine & set(now[b].tolist()), key=lambda column: -of_column[column])
            assert set(left[: total_kept(0.2, t * h * w)]) == mine & set(reduction.columns[b].tolist())


def test_the_plans_know_where_attention_begins() -> None:
    def wanted(settings: FrameFusion) -> list[int]:
        reduction, _ = setup(settings, first=3)
        return [layer for layer in range(LAYERS) if reduction.wants_attention(layer)]

    assert wanted(FrameFusion(keep=0.5)) == [3]
    assert wanted(FrameFusion(cost=0.9)) == [3]
    assert wanted(FrameFusion(keep=0.5, relevance="none")) == []
    with pytest.raises(
        ValueError, match="the first 3 layers, before any softmax attention, may have to see every token"
    ):
        setup(FrameFusion(cost=0.7), first=3)


def test_nan_in_the_hidden_states_is_an_error() -> None:
    reduction, hidden = setup(FrameFusion(keep={0: 0.5}))
    hidden[2, -5] = float("nan")
    with pytest.raises(ValueError, match="features"):
        reduction.before_layer(0, hidden)


def test_runs() -> None:
    assert runs(torch.tensor([1, 1, 0, 0, 1, 0, 1]).bool()) == [(0, 2), (4, 5), (6, 7)]
    assert runs(torch.zeros(3, dtype=torch.bool)) == []
