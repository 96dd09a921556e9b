"""The stages as pure functions: against sums over tokens, one after the other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framefusion import FrameFusion
from framefusion.reduction.budgets import Novelty
from framefusion.reduction.merging import Absorb
from framefusion.reduction.selectors.candidates import Candidates
from framefusion.reduction.selectors.dpp import DPP
from framefusion.reduction.stages import Change, Similar, followed, merge_stage, prune_stage

FRAMES, AREA = 4, 6


def tokens(seed):
    """A video whose frames repeat the one before in most places."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(FRAMES, AREA, 8, generator=generator)
    for frame in range(1, FRAMES):
        same = torch.rand(AREA, 1, generator=generator) < 0.7
        features[frame] = torch.where(same, features[frame - 1] + 0.1 * features[frame], features[frame])
    place = torch.arange(FRAMES * AREA)
    return features.flatten(0, 1), place // AREA, place % AREA


def means(features, target):
    """What every token that stays becomes."""
    return {
        token: features[[i for i, into in enumerate(target) if into == token]].mean(0)
        for token in range(len(target))
        if target[token] == token
    }


@given(st.integers(0, 50), st.integers(0, FRAMES * AREA), st.floats(0.1, 0.99))
def test_a_merge_is_the_mean_of_each_run(seed, count, bound):
    features, frames, patches = tokens(seed)
    similar = Similar.of(features, frames, patches, bound)
    change = merge_stage(features, similar, count)
    assert int((~change.stays).sum()) == min(count, similar.mergeable)
    now = features.index_copy(0, change.rewritten, change.features)
    for token, mean in means(features, change.target.tolist()).items():
        torch.testing.assert_close(now[token], mean)
    for token, into in enumerate(change.target.tolist()):
        assert patches[token] == patches[into]
        assert into <= token
        run = range(into + AREA, token + 1, AREA)
        assert all(torch.cosine_similarity(features[i], features[i - AREA], dim=0) >= bound - 1e-5 for i in run)


@pytest.mark.parametrize("dropped", ["drop", Absorb(0.2)])
@pytest.mark.parametrize("selector", ["dpp", "uniform", "low-resolution", "fastvid"])
def test_a_pruning_says_where_everything_goes(selector, dropped):
    features, frames, patches = tokens(0)
    rule = FrameFusion(keep=0.5, selector=selector, dropped=dropped, relevance="none")
    candidates = Candidates(features, None, frames // 2, frames, patches, (FRAMES, 2, 3), {})
    change = prune_stage(candidates, 9, FRAMES * AREA, rule)
    assert int(change.stays.sum()) == 9
    target = change.target.tolist()
    assert all(into == -1 or target[into] == into for into in target)
    assert (min(target) == -1 and not len(change.rewritten)) == (dropped == "drop" and selector in ("dpp", "uniform"))
    if selector != "fastvid":
        now = features.index_copy(0, change.rewritten, change.features)
        for token, mean in means(features, target).items():
            torch.testing.assert_close(now[token], mean)


def test_a_pruning_that_may_keep_less():
    features, frames, patches = tokens(0)
    still = features[:AREA].repeat(FRAMES, 1)
    rule = FrameFusion(keep=0.9, relevance="none", selector=DPP(gamma=None))
    candidates = Candidates(still, None, torch.zeros_like(frames), frames, patches, (FRAMES, 2, 3), {})
    for share, kept in ((0, AREA), (0.3, 7), (0.85, 20)):
        adaptive = replace(rule, novelty=Novelty(0.01, share))
        assert int(prune_stage(candidates, 20, len(still), adaptive).stays.sum()) == kept
    assert int(prune_stage(candidates, 20, len(still), rule).stays.sum()) == 20


@settings(deadline=None)
@given(st.data())
def test_changes_follow_each_other(data):
    """Tokens hop from one to the next; in a stage, twice at the most."""
    columns = torch.tensor(sorted(data.draw(st.sets(st.integers(0, 19), min_size=1, max_size=12))))
    place, present, changes = {c: c for c in range(20)}, columns, []
    for _ in range(2):
        stays = data.draw(st.lists(st.booleans(), min_size=len(present), max_size=len(present)))
        kept = [i for i, own in enumerate(stays) if own]
        target = [i if own else data.draw(st.sampled_from([-1, *kept])) for i, own in enumerate(stays)]
        none = torch.zeros(0, dtype=torch.long)
        change = Change(torch.tensor(target), none, torch.zeros(0, 1))
        changes.append((present, change.at(present)))
        hop = {int(present[i]): -1 if into < 0 else int(present[into]) for i, into in enumerate(target)}
        place = {c: hop.get(at, at) for c, at in place.items()}
        present = present[change.stays]
        if not len(present):
            break
    assert followed(changes, 20).tolist() == list(place.values())
