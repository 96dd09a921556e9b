"""What one stage does to one video or image: merge, then prune. Pure functions that return what changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from framefusion.reduction import budgets, merging, selectors
from framefusion.reduction.rules import rule_of
from framefusion.reduction.selectors.candidates import Candidates, Selected
from framefusion.reduction.selectors.dpp import DPP
from framefusion.reduction.settings import FrameFusion


class Change(NamedTuple):
    """What a stage does to ``n`` tokens."""

    target: Tensor
    """``(n,)`` int64 on the CPU: the token that each one goes into, itself if it stays, -1 if it leaves no trace."""
    rewritten: Tensor
    """``(R,)`` int64 on the CPU, ascending: those that stay with other hidden states."""
    features: Tensor
    """``(R, D)`` on the features' device: these."""

    @property
    def stays(self) -> Tensor:
        """``(n,)`` bool."""
        return self.target == torch.arange(len(self.target))

    def at(self, columns: Tensor) -> Change:
        """The same in the columns of the tokens, ``(n,)`` int64; ``target`` still has one entry for each token."""
        into = torch.where(self.target >= 0, columns[self.target.clamp_min(0)], -1)
        return Change(into, columns[self.rewritten], self.features)


@dataclass(frozen=True)
class Similar:
    """How similar the tokens of an item are to the one before them at the same patch position, on the CPU.

    Attributes:
        previous: ``(n,)`` int64, from :func:`framefusion.reduction.merging.previous_at_same_patch`.
        similarity: ``(n,)`` float32, from :func:`framefusion.reduction.merging.previous_similarity`.
        lower_bound: cosine from which a token may merge.
    """

    previous: Tensor
    similarity: Tensor
    lower_bound: float

    @classmethod
    def of(cls, features: Tensor, frames: Tensor, patches: Tensor, lower_bound: float) -> Similar:
        """Compare ``(n, D)`` features; ``frames`` and ``patches`` are ``(n,)`` int64 on the CPU."""
        previous = merging.previous_at_same_patch(frames, patches)
        similarity = merging.previous_similarity(features, previous.to(features.device))
        return cls(previous, similarity.cpu(), lower_bound)

    @property
    def mergeable(self) -> int:
        """How many tokens may merge."""
        return int((self.similarity >= self.lower_bound).sum())


def merge_stage(features: Tensor, similar: Similar, count: int) -> Change:
    """Merge runs of similar tokens into their first one, the plain mean of all (FrameFusion, arXiv 2501.01986).

    Args:
        features: ``(n, D)``, any float dtype.
        similar: of these features.
        count: how many tokens go, the most similar ones first.
    """
    chosen = merging.choose_merges(similar.similarity, similar.lower_bound, count)
    return _averaged(features, merging.run_targets(similar.previous, chosen))


def prune_stage(candidates: Candidates, total: int, original: int, settings: FrameFusion) -> Change:
    """Keep some of an item's tokens; the others leave no trace, or go into what stays.

    Args:
        candidates: the tokens; their budgets are not read.
        total: tokens that stay, at most with adaptive settings.
        original: tokens of the item before any stage.
        settings: the budget rule, the selector, and what becomes of the rest.
    """
    selected = _selected(candidates, total, original, settings)
    kept = torch.zeros(len(candidates.segments), dtype=torch.bool)
    kept[selected.indices] = True
    if selected.features is not None:
        target = merging.no_trace(candidates.features, candidates.segments, kept)
        return Change(target if selected.target is None else selected.target, selected.indices, selected.features)
    if selected.target is not None:
        return _averaged(candidates.features, selected.target)
    place = rule_of(settings.dropped, merging.DROPPED)
    return _averaged(candidates.features, place(candidates.features, candidates.segments, kept))


def _averaged(features: Tensor, target: Tensor) -> Change:
    """Every token that stays with the plain mean of itself and those that go into it."""
    if not bool(((target >= 0) & (target != torch.arange(len(target)))).any()):
        return Change(target, torch.zeros(0, dtype=torch.long), features[:0])
    rewritten, means = merging.group_means(features, target.to(features.device))
    return Change(target, rewritten.cpu(), means)


def _selected(candidates: Candidates, total: int, original: int, settings: FrameFusion) -> Selected:
    """What the rule keeps, its indices ascending on the CPU."""
    assert settings.budget_rule is not None
    split, novelty = budgets.BUDGETS[settings.budget_rule], settings.novelty
    # The budget of a single segment is no question.
    joint = split is None and bool((candidates.segments != candidates.segments[:1]).any())
    wanted: int | dict[int, int] = total
    if not joint:
        wanted = (split or budgets.by_length)(candidates.features, candidates.segments, total)
    if isinstance(wanted, int) or novelty is not None:
        bound, share = (None, 0.0) if novelty is None else (novelty.lower_bound, novelty.keep_lower_bound)
        assert isinstance(settings.selector, DPP)
        at_least = min(total, budgets.total_kept(share, original))
        chosen = settings.selector.greedy(candidates, wanted, bound, at_least)
        return Selected(chosen.cpu().sort().values)
    return selectors.select(settings.selector, candidates._replace(budgets=wanted))


def followed(changes: Sequence[tuple[Tensor, Change]], columns: int) -> Tensor:
    """Where every column of a row ends up after the changes of a stage.

    Args:
        changes: the columns of the tokens and what happens to them, from :meth:`Change.at`, one after the other.
        columns: length of the row.

    Returns:
        ``(columns,)`` int64: the column that each one's token is now in, itself if it stays, -1 if it left no trace.
    """
    moved = torch.arange(columns)
    for own, change in changes:
        moved[own] = change.target
    # What merged may have gone on into another one, or been dropped, in the same stage.
    return torch.where(moved >= 0, moved[moved.clamp_min(0)], -1)
