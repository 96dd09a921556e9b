"""HoliTom: what stands still merges over time, the rest around density peaks; inside the decoder around attention."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from framefusion.reduction.budgets import uniform
from framefusion.reduction.merging import merge_into, most_similar_kept, previous_at_same_patch, previous_similarity
from framefusion.reduction.segmentation import by_redundancy
from framefusion.reduction.selectors import topk
from framefusion.reduction.selectors.candidates import Candidates, Selected
from framefusion.reduction.selectors.clusters import blend, nearest, peaks
from framefusion.reduction.selectors.groups import by_frame

SIMILAR = 0.8
"""Cosine above which a token is that of the frame before, ``τ``; the authors' scripts have it for 15 % and more."""

LOOSE = 0.65
"""``τ`` of the authors' scripts for 10 % and less."""

NEIGHBOURS = 7
"""Nearest tokens that make the density."""

OWN = 0.6
"""Weight of a cluster's centre among those that it takes in, ``β``."""


def select(candidates: Candidates) -> Selected:
    """Spatio-temporal merging before the decoder, attention-guided merging inside (HoliTom, arXiv 2505.21334).

    Before layer 0, each segment is cut into the windows of frames that let the most tokens merge over time
    (dynamic programming; a patch is static in a window if each of its tokens resembles the one before). The static
    tokens of a window merge into their mean, in its first frame. The budget is then split evenly over the static
    tokens of each window and the others of each frame. Of the static ones the density peaks stay, and every other one
    merges into the nearest: ``0.6`` centre and ``0.4`` mean of what it takes in. Of the others the most relevant stay,
    and the rest leaves no trace; relevance is the vision encoder's attention in the paper. Where there is none, they
    are clustered as the static ones are. The windows are HoliTom's own, so the segment should be the whole video.

    Before a later layer the most relevant tokens of each segment stay (by attention of the last token in the paper).
    Every other one goes, in sequence order, into the kept one most similar to it by cosine, which becomes
    the mean of both: what comes last weighs most.

    Where so many tokens are static that merging all would leave fewer than the budget, only the most similar ones
    merge.
    """
    return _select(candidates, SIMILAR)


def select_loose(candidates: Candidates) -> Selected:
    """The same with the authors' ``τ`` for small budgets, :data:`LOOSE`."""
    return _select(candidates, LOOSE)


def _select(candidates: Candidates, similar: float) -> Selected:
    inside = candidates.layer > 0 and candidates.relevance is not None
    return _inside_decoder(candidates) if inside else _before_decoder(candidates, similar)


def _inside_decoder(candidates: Candidates) -> Selected:
    indices = topk.select(candidates).cpu()
    kept = torch.zeros(len(candidates.segments), dtype=torch.bool)
    kept[indices] = True
    target = most_similar_kept(candidates.features, candidates.segments, kept, lower_bound=-torch.inf)
    return Selected(indices, target, _halved(candidates.features, target, indices))


def _halved(features: Tensor, target: Tensor, indices: Tensor) -> Tensor:
    """What ``x = (x + y) / 2`` makes of each kept token ``x`` over the tokens ``y`` that go into it, in order: of ``m``
    of them the first one weighs ``2 ** -m``, as ``x`` does, and the last one a half."""
    moved = ((target >= 0) & (target != torch.arange(len(target)))).nonzero().squeeze(-1)
    moved = moved[torch.argsort(target[moved], stable=True)]
    into = target[moved]
    sizes = torch.bincount(into, minlength=len(target))
    # Tokens into the same one follow each other; how many of those come after each one.
    behind = sizes.cumsum(0)[into] - 1 - torch.arange(len(moved))
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    on = features.device
    weights = torch.exp2(-(behind + 1).to(wide.dtype)).to(on)
    mixed = wide * torch.exp2(-sizes.to(wide.dtype)).to(on)[:, None]
    mixed = mixed.index_add(0, into.to(on), weights[:, None] * wide[moved.to(on)])
    return mixed[indices.to(on)].to(features.dtype)


def _before_decoder(candidates: Candidates, similar: float) -> Selected:
    features, everyone = candidates.features, torch.arange(len(candidates.segments))
    previous = previous_at_same_patch(candidates.frames, candidates.patches)
    similarity = previous_similarity(features, previous.to(features.device)).cpu()
    relevance = None if candidates.relevance is None else candidates.relevance.cpu()
    static, centres = everyone.clone(), torch.full_like(everyone, -1)
    groups: list[tuple[Tensor, bool, int]] = []
    for segment, count in candidates.budgets.items():
        frames = by_frame(candidates, segment)
        runs = _fitting(_runs(candidates, frames, previous, similarity, similar), sum(map(len, frames)), count)
        for run in runs:
            static[run.tokens] = run.tokens[0]
        still, moving = _groups(frames, runs, static)
        counts = uniform([len(part) for part in still + moving], count)
        groups += zip(still + moving, [True] * len(still) + [False] * len(moving), counts, strict=True)
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    merged = merge_into(wide, static.to(features.device))
    wide = wide.index_copy(0, merged.kept, merged.features)
    for group, is_static, own in groups:
        if own and not is_static and relevance is not None:
            chosen = group[torch.argsort(relevance[group], descending=True, stable=True)[:own]]
            centres[chosen] = chosen
        elif own:
            rows = wide[group.to(features.device)]
            chosen = peaks(rows, own, min(NEIGHBOURS, own))
            centres[group] = group[chosen.cpu()][nearest(rows, chosen).cpu()]
            centres[group[chosen.cpu()]] = group[chosen.cpu()]
    indices = (centres == everyone).nonzero().squeeze(-1)
    mixed = blend(wide, centres, indices, OWN).to(features.dtype)
    return Selected(indices, centres[static], mixed)


class _Run(NamedTuple):
    """The tokens of one static patch in one window, in temporal order."""

    tokens: Tensor
    window: int
    similarity: float
    """The smallest between neighbours."""


def _runs(
    candidates: Candidates, frames: list[Tensor], previous: Tensor, similarity: Tensor, similar: float
) -> list[_Run]:
    """The static patches of the windows that together remove the most tokens."""
    if not frames:
        return []
    members = torch.cat(frames)
    first, area = int(candidates.frames[members].min()), int(candidates.patches[members].max()) + 1
    frame, patch = candidates.frames[members] - first, candidates.patches[members]
    device = candidates.features.device
    window = by_redundancy(
        candidates.features[members.to(device)], frame.to(device), patch.to(device), threshold=similar
    )
    token = torch.full((len(window), area), -1)
    token[frame, patch] = members
    before = torch.full_like(token, -2)
    before[1:] = token[:-1]
    still = (token >= 0) & (previous[token] == before) & (similarity[token] > similar)
    runs = []
    for number, length in enumerate(window.bincount().tolist()):
        own = (window == number).nonzero().squeeze(-1)
        for column in still[own[1:]].all(0).nonzero().squeeze(-1).tolist() if length > 1 else []:
            tokens = token[own, column]
            runs.append(_Run(tokens, number, float(similarity[tokens[1:]].min())))
    return runs


def _fitting(runs: list[_Run], present: int, count: int) -> list[_Run]:
    """The runs that can merge, the most similar first, so that at least ``count`` of the tokens are left."""
    fitting = []
    for run in sorted(runs, key=lambda run: -run.similarity):
        removed = len(run.tokens) - 1
        if present - removed >= count:
            fitting.append(run)
            present -= removed
    return fitting


def _groups(frames: list[Tensor], runs: list[_Run], static: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The merged tokens of each window, and the others of each frame."""
    merged = torch.zeros(len(static), dtype=torch.bool)
    of_window: dict[int, list[Tensor]] = {}
    for run in runs:
        merged[run.tokens] = True
        of_window.setdefault(run.window, []).append(run.tokens[:1])
    still = [torch.cat(of_window[window]).sort().values for window in sorted(of_window)]
    return still, [rest for frame in frames if len(rest := frame[~merged[frame]])]
