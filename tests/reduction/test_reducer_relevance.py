"""What decides at a stage: relevance of every source, and what a selector is given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from framefusion import FrameFusion
from framefusion.reduction.budgets import total_kept
from framefusion.reduction.merging import Merging
from framefusion.reduction.reducer import Reduction
from framefusion.reduction.relevance import question_similarity
from framefusion.reduction.selectors import SELECTORS
from framefusion.reduction.selectors.candidates import Candidates
from tests.reduction.made import GRIDS, LAYERS, run, setup


@pytest.mark.parametrize("layer", [0, 2])
def test_similarity_with_the_question_decides(layer: int) -> None:
    for sign in (1, -1):
        settings = FrameFusion(
            keep={layer: 0.4}, selector="topk", segmentation="single", relevance="similarity", relevance_sign=sign
        )
        reduction, hidden = setup(settings)
        assert not any(map(reduction.wants_attention, range(LAYERS)))
        for before in range(layer + 1):
            out = reduction.before_layer(before, hidden)
        columns = reduction.layouts[0].columns
        question = hidden[0, int(columns[-1]) + 1 :]
        assert len(question) == 2
        cosines = torch.stack([torch.cosine_similarity(hidden[0, columns], q[None], dim=1) for q in question]).amax(0)
        for mine in (slice(0, 36), slice(36, 56)):
            best = (sign * cosines[mine]).topk(total_kept(0.4, len(columns[mine]))).indices
            kept = set(reduction.stages[0].kept[0].tolist())
            assert kept & set(columns[mine].tolist()) == set(columns[mine][best].tolist())
        assert out.shape[1] < hidden.shape[1]


@pytest.mark.parametrize("stages", [{0: 0.4}, {0: 0.8, 2: 0.4}])
def test_what_changed_in_the_same_video_decides(stages: dict[int, float]) -> None:
    """A video is never compared with the one before it, and a token with the one before it that is still there."""
    settings = FrameFusion(
        keep=stages, selector="topk", segmentation="single", relevance="dissimilarity", dropped="drop"
    )
    reduction, hidden = setup(settings)
    assert not any(map(reduction.wants_attention, range(LAYERS)))
    out = hidden
    for layer in range(max(stages) + 1):
        out = reduction.before_layer(layer, out)
    layout = reduction.layouts[0]
    for item, (_, height, width) in enumerate(layout.grids):
        mine = (layout.item == item).nonzero().squeeze(-1).tolist()
        left = mine
        for share in stages.values():
            change = {}
            for token in left:
                before = [other for other in left if other < token and (token - other) % (height * width) == 0]
                same = [hidden[0, layout.columns[t]] for t in (token, *before[-1:])]
                change[token] = 1 - float(torch.cosine_similarity(*same, dim=0)) if before else 1.0
            # Of equal values the first stays.
            left = sorted(sorted(left, key=lambda t: (-change[t], t))[: total_kept(share, len(mine))])
        kept = set(reduction.stages[-1].kept[0].tolist())
        assert kept & set(layout.columns[mine].tolist()) == set(layout.columns[left].tolist())


def test_what_a_selector_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Candidates] = []

    def select(candidates: Candidates) -> torch.Tensor:
        given.append(candidates)
        return torch.arange(candidates.total)

    monkeypatch.setitem(SELECTORS, "watched", select)
    settings = FrameFusion(keep={1: 0.5, 2: 0.2}, selector="watched", relevance="last", segmentation="single", seed=7)
    run(settings)
    assert [c.grid for c in given] == 2 * [grid for grids in GRIDS for grid in grids]
    for candidates, total in zip(given, [18, 10, 15, 7, 4, 6], strict=True):
        assert candidates.total == total
        assert candidates.seed == 7
        assert candidates.relevance is not None
        t, h, w = candidates.grid
        present = torch.arange(t * h * w)[: len(candidates.features)]
        assert torch.equal(candidates.frames, present // (h * w))
        assert torch.equal(candidates.patches, present % (h * w))
        assert len(candidates.relevance) == len(candidates.segments) == len(present)


def test_every_video_of_a_sample_merges_before_relevance_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Candidates] = []

    def select(candidates: Candidates) -> torch.Tensor:
        given.append(candidates)
        return torch.arange(candidates.total)

    monkeypatch.setitem(SELECTORS, "watched", select)
    merging = Merging(similarity_lower_bound=0.2, ratio_lower_bound=0)
    settings = FrameFusion(
        keep={0: 0.1}, merging=merging, selector="watched", relevance="similarity", segmentation="single"
    )
    reduction, hidden = setup(settings)
    reduction.before_layer(0, hidden)
    first, second = given[:2]
    assert len(first.features) < 36
    assert len(second.features) < 20
    question = hidden[0, int(reduction.layouts[0].columns[-1]) + 1 :]
    similarity = torch.cat([question_similarity(candidates.features, question) for candidates in (first, second)])
    scaled = torch.cat([candidates.relevance for candidates in (first, second) if candidates.relevance is not None])
    assert torch.corrcoef(torch.stack([similarity, scaled]))[0, 1] == pytest.approx(1, abs=1e-6)


def test_relevance_and_its_sign_decide() -> None:
    for sign in (1, -1):
        rule: dict[str, Any] = {"selector": "topk", "segmentation": "single", "relevance": "last"}
        settings = FrameFusion(keep={1: 0.4}, relevance_sign=sign, **rule)
        reduction, hidden = setup(settings)
        hidden = reduction.before_layer(0, hidden)
        received = torch.rand(hidden.shape[:2], generator=torch.Generator().manual_seed(1))
        reduction.before_layer(1, hidden, received)
        columns = reduction.layouts[2].columns
        best = (sign * received[2, columns]).topk(total_kept(0.4, len(columns))).indices
        kept = set(reduction.stages[0].kept[2].tolist())
        assert kept & set(columns.tolist()) == set(columns[best].tolist())


def test_attention_that_float32_cannot_tell_apart_decides() -> None:
    settings = FrameFusion(keep={1: 0.4}, relevance="last", selector="topk", segmentation="single", dropped="drop")
    reduction, hidden = setup(settings)
    reduction.before_layer(0, hidden)
    received = 0.01 + 1e-12 * torch.arange(hidden.shape[1], dtype=torch.float64).expand(len(hidden), -1)
    reduction.before_layer(1, hidden, received)
    for kept, layout in zip(reduction.stages[0].kept, reduction.layouts, strict=True):
        for item, tokens in enumerate(layout.counts):
            columns = layout.columns[layout.item == item]
            assert torch.equal(kept[torch.isin(kept, columns)], columns[-total_kept(0.4, tokens) :])


def test_the_encoder_decides_before_layer_0() -> None:
    """And what it said of a token goes with the token; \"encoder-last\" hears the last token afterwards."""
    rule: dict[str, Any] = {"selector": "topk", "segmentation": "single", "dropped": "drop"}
    for which, layers in (("encoder", (0, 2)), ("encoder-last", (0,))):
        settings = FrameFusion(keep={0: 0.5, 2: 0.2}, relevance=which, **rule)
        with pytest.raises(ValueError, match="goes by the attention of the vision encoder, which was not recorded"):
            setup(settings)
        plain, hidden = setup(replace(settings, relevance="similarity"))
        generator = torch.Generator().manual_seed(3)
        encoder = [torch.rand(len(layout), generator=generator) for layout in plain.layouts]
        valid = plain.columns >= 0
        reduction = Reduction(settings, plain.layouts, valid, LAYERS, encoder=encoder)
        received = None
        for layer in range(LAYERS):
            hidden = reduction.before_layer(layer, hidden, received)
            received = torch.rand(hidden.shape[:2], generator=generator)
        assert reduction.wants_attention(2) == (which == "encoder-last")
        for stage, share in zip(reduction.stages, (0.5, 0.2), strict=True):
            for b, layout in enumerate(plain.layouts):
                for item, tokens in enumerate(layout.counts):
                    columns = layout.columns[layout.item == item]
                    best = encoder[b][layout.item == item].argsort(descending=True)[: total_kept(share, tokens)]
                    mine = stage.kept[b][torch.isin(stage.kept[b], columns)]
                    assert torch.equal(mine, columns[best.sort().values]) == (stage.layer in layers)


def test_the_exponent_weighs_relevance() -> None:
    def kept(**rule: Any) -> list[list[int]]:
        reduction, hidden = setup(FrameFusion(keep={0: 0.2}, segmentation="single", **rule))
        reduction.before_layer(0, hidden)
        return [row.tolist() for row in reduction.stages[0].kept]

    assert kept(relevance="similarity", relevance_exponent=0) == kept(relevance="none")
    assert kept(relevance="similarity", relevance_exponent=1) != kept(relevance="none")


def test_attention_is_wanted_only_where_it_is_used() -> None:
    def wanted(settings: FrameFusion) -> list[int]:
        reduction, _ = setup(settings)
        return [layer for layer in range(LAYERS) if reduction.wants_attention(layer)]

    assert wanted(FrameFusion(keep={0: 0.5, 2: 0.3}, relevance="last")) == [2]
    assert wanted(FrameFusion(keep={2: 0.3}, relevance="none")) == []
    assert wanted(FrameFusion(cost=0.5, relevance="last")) == [3]
    assert wanted(FrameFusion(keep={0: 0.5, 1: 0.4, 2: 0.3}, relevance="text")) == [1, 2]
    assert wanted(FrameFusion(keep={0: 0.5, 1: 0.4, 2: 0.3}, relevance="late-text")) == [2]
    assert wanted(FrameFusion(cost=0.5, merge=True, relevance="last")) == [1, 2, 3]
    assert wanted(FrameFusion(cost=0.5, merge=True, relevance="none")) == []
    assert wanted(FrameFusion(keep=1.0, relevance="last")) == []


@pytest.mark.parametrize(("layer", "same"), [(1, "none"), (2, "text")])
def test_the_attention_of_the_text_counts_in_the_later_half_only(layer: int, same: Any) -> None:
    late, alike = (
        run(FrameFusion(keep={layer: 0.4}, relevance=which, segmentation="single")) for which in ("late-text", same)
    )
    other, _ = run(FrameFusion(keep={layer: 0.4}, relevance="none" if same == "text" else "text"))
    assert torch.equal(late[0].columns, alike[0].columns)
    assert not torch.equal(late[0].columns, other.columns)


@pytest.mark.parametrize("merge", [False, True])
def test_the_latest_attention_counts_where_none_was_recorded(merge: bool) -> None:
    """It belongs to columns: slots may have merged or gone since."""
    keep = {3: 0.2} if merge else {2: 0.6, 3: 0.2}
    settings = FrameFusion(
        keep=keep,
        merging=Merging(similarity_lower_bound=0.4, ratio_lower_bound=0) if merge else None,
        selector="topk",
        relevance="last",
        segmentation="single",
        dropped="drop",
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

    assert wanted(FrameFusion(keep=0.5, relevance="last")) == [3]
    assert wanted(FrameFusion(cost=0.9, relevance="last")) == [3]
    assert wanted(FrameFusion(cost=0.9, merge=True, relevance="last")) == [3]
    assert wanted(FrameFusion(keep=0.5, relevance="none")) == []
    with pytest.raises(
        ValueError, match="the first 3 layers, before any softmax attention, may have to see every token"
    ):
        setup(FrameFusion(cost=0.7, merge=True, relevance="last"), first=3)
