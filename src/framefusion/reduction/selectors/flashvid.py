"""FlashVID: attended and different tokens of each frame stay; the others join trees through time."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from framefusion.reduction.budgets import uniform
from framefusion.reduction.merging import merge_into
from framefusion.reduction.selectors import topk
from framefusion.reduction.selectors.candidates import Candidates, Selected
from framefusion.reduction.selectors.clusters import nearest, peaks
from framefusion.reduction.selectors.divprune import max_min
from framefusion.reduction.selectors.groups import by_frame

CHOSEN = 0.7
"""Share of the budget that goes to attention and diversity, ``α``."""

SIMILAR = 0.8
"""Cosine above which a token joins one of the frame before, ``T_τ``."""

NEIGHBOURS = 7
"""Nearest tokens that make the density."""


def select(candidates: Candidates) -> Selected:
    """Attention and diversity, then tree-based spatiotemporal merging, in each segment (FlashVID, arXiv 2602.08024);
    meant for DySeg segments.

    70 % of a segment's budget go to its frames, evenly: greedy max–min of ``(1 - cos)·a_j·e_j``, with the relevance
    ``a`` of a token, 1 where there is none, and its event relevance ``e``, the mean of its products with the mean
    tokens of the frames. Each other token joins its most similar one in the frame before that has not been chosen
    either, if their cosine is above 0.8, and so do the trees: a root becomes the mean of its tree. The rest of the
    budget goes to the frames in proportion to their roots: the density peaks stay, every other root goes into the
    nearest peak, which becomes the mean of its roots.

    Inside the decoder, where earlier stages have removed tokens and there is relevance, only the most relevant tokens
    stay, as published.

    For an exact total, where joining all that are similar would leave fewer roots than the budget, only the most
    similar join. Without a budget for them the roots are dropped.
    """
    frames, height, width = candidates.grid
    if candidates.relevance is not None and len(candidates.segments) < frames * height * width:
        return Selected(topk.select(candidates).cpu())
    everyone = torch.arange(len(candidates.segments))
    features = candidates.features
    wide = features.to(torch.promote_types(features.dtype, torch.float32)).clone()
    target = torch.full_like(everyone, -1)
    for segment, count in candidates.budgets.items():
        by_time = by_frame(candidates, segment)
        chosen = _attention_and_diversity(wide, candidates.relevance, by_time, math.ceil(CHOSEN * count))
        rest = [frame[~torch.isin(frame, chosen)] for frame in by_time]
        target[chosen] = chosen
        if left := count - len(chosen):
            trees = _join(wide, rest, left)
            target = torch.where(trees >= 0, _clusters(wide, rest, trees, left), target)
    indices = (target == everyone).nonzero().squeeze(-1)
    return Selected(indices, target, wide[indices.to(wide.device)].to(features.dtype))


def _attention_and_diversity(features: Tensor, relevance: Tensor | None, frames: list[Tensor], count: int) -> Tensor:
    """The tokens of the frames that stay for themselves, ``count`` in all."""
    counts = uniform([len(frame) for frame in frames], count)
    chosen = [torch.zeros(0, dtype=torch.long)]
    if not count:
        return chosen[0]
    rows = [frame.to(features.device) for frame in frames]
    # The mean of the products with all frames' means is the product with the mean of these.
    event = torch.stack([features[row].mean(0) for row in rows]).mean(0)
    for frame, row, own in zip(frames, rows, counts, strict=True):
        if own:
            weights = features[row] @ event
            if relevance is not None:
                weights = weights * relevance[row]
            chosen.append(frame[max_min(features[row], own, weights).cpu()])
    return torch.cat(chosen)


def _join(features: Tensor, frames: list[Tensor], count: int) -> Tensor:
    """The root of each token of some frames' trees, of which there are ``count`` or more; -1 for all other tokens.
    Writes the trees' means to their roots."""
    members = torch.cat(frames)
    parent, similarity = members.clone(), torch.full((len(members),), -torch.inf, dtype=features.dtype)
    start = len(frames[0])
    for before, frame in pairwise(frames):
        if len(before) and len(frame):
            unit, others = (F.normalize(features[f.to(features.device)], dim=-1) for f in (frame, before))
            best, own = (unit @ others.T).cpu().max(1), slice(start, start + len(frame))
            similarity[own], parent[own] = best.values, before[best.indices]
        start += len(frame)
    joins = similarity > SIMILAR
    order = torch.argsort(similarity, descending=True, stable=True)
    joins[order[len(members) - count :]] = False
    target = torch.arange(len(features))
    target[members] = torch.where(joins, parent, members)
    # Every other round doubles how far up a token points.
    while not torch.equal(target, further := target[target]):
        target = further
    merged = merge_into(features, target.to(features.device))
    features[merged.kept] = merged.features
    trees = torch.full_like(target, -1)
    trees[members] = target[members]
    return trees


def _clusters(features: Tensor, frames: list[Tensor], trees: Tensor, count: int) -> Tensor:
    """The kept token that each token of the trees goes into, -1 for none; writes the clusters' means to their peaks."""
    roots = [frame[trees[frame] == frame] for frame in frames]
    target = torch.full_like(trees, -1)
    for group, own in zip(roots, uniform([len(group) for group in roots], count), strict=True):
        if own:
            rows = group.to(features.device)
            x = features[rows]
            centres = peaks(x, own, min(NEIGHBOURS, own))
            cluster = nearest(x, centres)
            cluster[centres] = torch.arange(own, device=cluster.device)
            sums = x.new_zeros(own, x.shape[1]).index_add_(0, cluster, x)
            features[rows[centres]] = sums / torch.bincount(cluster, minlength=own)[:, None]
            target[group] = group[centres.cpu()][cluster.cpu()]
    return torch.where(trees >= 0, target[trees.clamp_min(0)], -1)
