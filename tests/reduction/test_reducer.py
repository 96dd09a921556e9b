"""Who stays at a stage, and in what: totals, segments, merging, novelty."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

from framefusion import FrameFusion, select_tokens
from framefusion.reduction.budgets import BUDGETS, total_kept
from framefusion.reduction.layout import runs
from framefusion.reduction.reducer import Reduction
from framefusion.reduction.segmentation import SEGMENTATIONS, DySeg, Windows
from tests.reduction.made import GRIDS, LAYERS, run, setup


@pytest.mark.parametrize("segmentation", [*(name for name in SEGMENTATIONS if name != "windows"), Windows(2)])
@pytest.mark.parametrize(
    ("budget_rule", "selector"),
    [*itertools.product(["uniform", "marginal-value"], ["dpp", "topk", "uniform"]), ("joint", "dpp")],
)
def test_totals_are_exact_per_video(segmentation: Any, budget_rule: Any, selector: str) -> None:
    settings = FrameFusion(
        keep={1: 0.6, 2: 0.33},
        segmentation=segmentation,
        budget_rule=budget_rule,
        selector=selector,
        relevance="similarity",
    )
    reduction, _ = run(settings)
    assert [stage.layer for stage in reduction.stages] == [1, 2]
    for stage, share in zip(reduction.stages, (0.6, 0.33), strict=True):
        for layout, kept in zip(reduction.layouts, stage.kept, strict=True):
            alive = torch.isin(layout.columns, kept)
            for video, (t, h, w) in enumerate(layout.grids):
                assert int(alive[layout.item == video].sum()) == total_kept(share, t * h * w)


@pytest.mark.parametrize("budget_rule", list(BUDGETS))
def test_every_segment_keeps_a_token(budget_rule: Any) -> None:
    settings = FrameFusion(keep={1: 0.25}, segmentation="frames", budget_rule=budget_rule)
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
    reduction, hidden = setup(FrameFusion(keep={0: 0.5}, dropped="drop"))
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


@pytest.mark.parametrize("segmentation", list(SEGMENTATIONS))
def test_segments_are_those_of_the_pure_functions(segmentation: str) -> None:
    told: dict[str, Any] = {"windows": Windows(3), "dyseg": DySeg(minimum=3)}
    reduction, hidden = setup(FrameFusion(keep={0: 0.5}, segmentation=told.get(segmentation, segmentation)))
    # Frames 2 and 3 of the first video repeat frame 1.
    columns = reduction.layouts[0].columns
    hidden[0, columns[18:36]] = hidden[0, columns[9:18]].repeat(2, 1)
    reduction.before_layer(0, hidden)
    assert reduction.segments is not None
    expected = {
        "frame-similarity": 2,
        "dyseg": 3,
        "dp": 2,
        "windows": 2,
        "frames": 4,
        "single": 1,
    }
    mine = reduction.segments[0][:36].view(4, 9)
    assert (mine == mine[:, :1]).all()
    assert int(mine.max()) + 1 == expected[segmentation]
    if segmentation in ("frame-similarity", "dp"):
        assert mine[:, 0].tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("keep", [{0: 0.4}, {1: 0.5, 3: 0.2}])
def test_dropped_tokens_merge_into_the_most_similar_kept_one(keep: dict[int, float]) -> None:
    settings = FrameFusion(keep=keep, dropped="merge", dropped_lower_bound=0.1, segmentation="windows")
    reduction, hidden = setup(settings)
    plain, _ = setup(FrameFusion(keep=keep, dropped="drop", segmentation="windows"))
    groups = 0
    for layer in range(LAYERS):
        before, columns = hidden, reduction.columns
        received = torch.rand(hidden.shape[:2], generator=torch.Generator().manual_seed(layer)) if layer else None
        hidden = reduction.before_layer(layer, before, received)
        if layer not in keep:
            continue
        stage = reduction.stages[-1]
        assert stage.layer == layer
        assert stage.merged_into is not None
        for b, layout in enumerate(reduction.layouts):
            slot_of = {column: slot for slot, column in enumerate(columns[b].tolist()) if column >= 0}
            segments = dict(zip(layout.columns.tolist(), reduction.segments[b].tolist(), strict=True))  # type: ignore
            kept = [column for column in stage.kept[b].tolist() if column in segments]
            members: dict[int, list[int]] = {column: [column] for column in kept}
            for column in set(slot_of) & set(segments) - set(kept):
                cosines = {
                    other: float(torch.cosine_similarity(before[b, slot_of[column]], before[b, slot_of[other]], dim=0))
                    for other in kept
                    if segments[other] == segments[column]
                }
                best = max(cosines, key=lambda other: cosines[other])
                into = best if cosines[best] >= 0.1 else -1
                assert int(stage.merged_into[b][column]) == into
                if into >= 0:
                    members[into].append(column)
            for slot, column in enumerate(reduction.columns[b].tolist()):
                if column in members:
                    group = before[b, [slot_of[member] for member in members[column]]]
                    torch.testing.assert_close(hidden[b, slot], group.mean(0))
                    groups += len(group) > 1
                elif column >= 0:
                    assert torch.equal(hidden[b, slot], before[b, slot_of[column]])
    assert groups
    # The first choice is that without merging.
    _, original = setup(settings)
    received = None
    for layer in range(min(keep) + 1):
        original = plain.before_layer(layer, original, received)
        received = torch.rand(original.shape[:2], generator=torch.Generator().manual_seed(layer + 1))
    for mine, without in zip(reduction.stages[0].kept, plain.stages[0].kept, strict=True):
        assert torch.equal(mine, without)


def test_merged_into_follows_a_merge_and_a_pruning_of_the_same_stage() -> None:
    settings = FrameFusion(
        keep={0: 0.1}, merge=True, similarity_lower_bound=0.1, dropped_lower_bound=0.1, ratio_lower_bound=0
    )
    reduction, hidden = setup(settings)
    reduction.before_layer(0, hidden)
    [stage] = reduction.stages
    assert stage.merged_into is not None
    for into, kept in zip(stage.merged_into, stage.kept, strict=True):
        held = into[into >= 0]
        assert torch.isin(held, kept).all()
        assert torch.equal(into[kept], kept)


def still(hidden: torch.Tensor, reduction: Reduction) -> torch.Tensor:
    """The last sample's video stands still."""
    columns = reduction.layouts[2].columns
    hidden = hidden.clone()
    hidden[2, columns] = hidden[2, columns[:10]].repeat(3, 1) + 0.01 * hidden[2, columns]
    return hidden


@pytest.mark.parametrize("budget_rule", list(BUDGETS))
@pytest.mark.parametrize("keep_lower_bound", [0.0, 0.5])
@pytest.mark.parametrize("amount", [{"keep": {1: 0.8}}, {"keep": {0: 1.0}}, {"keep": {0: 0.9, 2: 0.7}}, {"cost": 0.9}])
def test_a_still_video_keeps_less(budget_rule: Any, keep_lower_bound: float, amount: dict[str, Any]) -> None:
    options = {**amount, "budget_rule": budget_rule, "segmentation": "single", "relevance": "none"}
    settings = FrameFusion(novelty_lower_bound=0.05, keep_lower_bound=keep_lower_bound, **options)
    reduction, hidden = setup(settings)
    exact, _ = setup(FrameFusion(**options))
    slow, fast = still(hidden, reduction), hidden
    for layer in range(LAYERS):
        slow = reduction.before_layer(layer, slow)
        fast = exact.before_layer(layer, fast)
        assert all(own <= most for own, most in zip(reduction.visual_per_layer, exact.visual_per_layer, strict=True))
    left = torch.isin(reduction.layouts[2].columns, reduction.stages[-1].kept[2]).sum()
    assert left == (15 if keep_lower_bound else 10)
    # Noise in 16 dimensions: nothing is spanned before that many are kept.
    assert torch.isin(reduction.layouts[0].columns[36:], reduction.stages[-1].kept[0]).sum() >= 10


def test_nothing_is_recorded_where_everything_is_new() -> None:
    everything = {"keep": {0: 1.0}, "novelty_lower_bound": 1e-9}
    reduction, _ = setup(FrameFusion(**everything, segmentation="frames", relevance="none", dropped="drop"))
    hidden = torch.randn(len(GRIDS), reduction.length, 32, generator=torch.Generator().manual_seed(0))
    assert reduction.before_layer(0, hidden) is hidden
    assert reduction.stages == []
    assert not reduction.reduced


def test_joint_budgets_are_those_of_the_selection() -> None:
    settings = FrameFusion(keep={0: 0.5}, budget_rule="joint", segmentation="frames", relevance="none")
    reduction, hidden = setup(settings)
    # One frame of the last video is noise, the others are nearly one token.
    columns = reduction.layouts[2].columns
    hidden[2, columns[10:]] = hidden[2, columns[0]] + 0.01 * hidden[2, columns[10:]]
    reduction.before_layer(0, hidden)
    expected = select_tokens(hidden[2, columns], None, torch.arange(30) // 10, 15, joint=True)
    kept = reduction.stages[0].kept[2]
    assert kept[torch.isin(kept, columns)].tolist() == columns[expected].sort().values.tolist()
    assert torch.isin(columns, kept).view(3, 10).sum(1).tolist()[0] == 10


def test_nan_in_the_hidden_states_is_an_error() -> None:
    for relevance, named in (("none", "features"), ("similarity", "relevance must be finite")):
        reduction, hidden = setup(FrameFusion(keep={0: 0.5}, relevance=relevance))  # type: ignore[arg-type]
        hidden[2, -5] = float("nan")
        with pytest.raises(ValueError, match=named):
            reduction.before_layer(0, hidden)


def test_runs() -> None:
    assert runs(torch.tensor([1, 1, 0, 0, 1, 0, 1]).bool()) == [(0, 2), (4, 5), (6, 7)]
    assert runs(torch.zeros(3, dtype=torch.bool)) == []


def test_long_segments_of_the_gaussian_kernel_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framefusion.reduction.reducer.GAUSSIAN_TOKENS", 9)
    for settings, cut in (
        (FrameFusion(keep={0: 0.5}, segmentation="windows"), [4, 5]),
        (FrameFusion(keep={0: 0.5}, segmentation="single"), [1, 1]),
        (FrameFusion(keep={0: 0.5}, segmentation="windows", gamma=None), [1, 2]),
        (FrameFusion(keep={0: 0.5}, segmentation="windows", selector="uniform"), [1, 2]),
    ):
        reduction, hidden = setup(settings)
        reduction.before_layer(0, hidden)
        assert reduction.segments is not None
        items = [reduction.segments[0][reduction.layouts[0].item == item] for item in (0, 1)]
        assert [len(ids.unique()) for ids in items] == [cut[0], cut[1] if cut[0] == 1 else 3]


def test_segments_too_long_for_a_matrix_take_the_kernel_of_cosines(monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(**changes: Any) -> list[list[int]]:
        return [row.tolist() for row in run(FrameFusion(keep={0: 0.4}, segmentation="single", **changes))[0].columns]

    assert kept() != kept(gamma=None)
    monkeypatch.setattr("framefusion.reduction.selectors.dpp.LONG_SEGMENT", 15)
    assert kept() == kept(gamma=None)


def test_one_budget_for_a_single_segment_is_no_other() -> None:
    settings = FrameFusion(keep={0: 0.4}, segmentation="single", gamma=None)
    joint, uniform = (run(replace(settings, budget_rule=rule))[0].columns for rule in ("joint", "uniform"))
    assert torch.equal(joint, uniform)
