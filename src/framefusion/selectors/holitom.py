"""HoliTom: what stands still merges over time, the rest around density peaks; inside the decoder around attention."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from framefusion.budgets import uniform
from framefusion.merging import merge_into, most_similar_kept, previous_at_same_patch, previous_similarity
from framefusion.segmentation import by_redundancy
from framefusion.selectors import topk
from framefusion.selectors.candidates import Candidates, Selected
from framefusion.selectors.clusters import blend, nearest, peaks
from framefusion.selectors.groups import by_frame

SIMILAR = 0.8
"""Cosine above which a token is that of the frame before, ``τ``."""

NEIGHBOURS = 7
"""Nearest tokens that make the density."""

OWN = 0.6
"""Weight of a cluster's centre among those that it takes in, ``β``."""


def select(candidates: Candidates) -> Selected:
    """Spatio-temporal merging before the decoder, attention-guided merging inside (HoliTom, arXiv 2505.21334).

    Without relevance, each segment is cut into the windows of frames that let the most tokens merge over time
    (dynamic programming; a patch is static in a window if each of its tokens resembles the one before). The static
    tokens of a window merge into their mean, in its first frame. The budget is then split evenly over the static
    tokens of each window and the others of each frame; in each of these groups the density peaks stay, and every
    other token merges into the nearest: ``0.6`` centre and ``0.4`` mean of what it takes in. The windows are HoliTom's
    own, so the segment should be the whole video.

    With relevance, the most relevant tokens of each segment stay, and every other one is averaged into the kept one
    most similar to it by cosine.

    The published code ranks the tokens that are not static by the vision encoder's attention, which a decoder does
    not see; here they are clustered as the static ones are. Where so many tokens are static that merging all would
    leave fewer than the budget, only the most similar ones merge.
    """
    return _before_decoder(candidates) if candidates.relevance is None else _inside_decoder(candidates)


def _inside_decoder(candidates: Candidates) -> Selected:
    indices = topk.select(candidates).cpu()
    kept = torch.zeros(len(candidates.segments), dtype=torch.bool)
    kept[indices] = True
    return Selected(indices, most_similar_kept(candidates.features, candidates.segments, kept, lower_bound=-torch.inf))


def _before_decoder(candidates: Candidates) -> Selected:
    features, everyone = candidates.features, torch.arange(len(candidates.segments))
    previous = previous_at_same_patch(candidates.frames, candidates.patches)
    similarity = previous_similarity(features, previous.to(features.device)).cpu()
    static, centres = everyone.clone(), torch.full_like(everyone, -1)
    groups: list[tuple[Tensor, int]] = []
    for segment, count in candidates.budgets.items():
        frames = by_frame(candidates, segment)
        runs = _fitting(_runs(candidates, frames, previous, similarity), sum(map(len, frames)), count)
        for run in runs:
            static[run.tokens] = run.tokens[0]
        parts = _groups(frames, runs, static)
        groups += zip(parts, uniform([len(part) for part in parts], count), strict=True)
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    merged = merge_into(wide, static.to(features.device))
    wide = wide.index_copy(0, merged.kept, merged.features)
    for group, own in groups:
        if own:
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


def _runs(candidates: Candidates, frames: list[Tensor], previous: Tensor, similarity: Tensor) -> list[_Run]:
    """The static patches of the windows that together remove the most tokens."""
    if not frames:
        return []
    members = torch.cat(frames)
    first, area = int(candidates.frames[members].min()), int(candidates.patches[members].max()) + 1
    frame, patch = candidates.frames[members] - first, candidates.patches[members]
    device = candidates.features.device
    window = by_redundancy(
        candidates.features[members.to(device)], frame.to(device), patch.to(device), threshold=SIMILAR
    )
    token = torch.full((len(window), area), -1)
    token[frame, patch] = members
    before = torch.full_like(token, -2)
    before[1:] = token[:-1]
    similar = (token >= 0) & (previous[token] == before) & (similarity[token] > SIMILAR)
    runs = []
    for number, length in enumerate(window.bincount().tolist()):
        own = (window == number).nonzero().squeeze(-1)
        for column in similar[own[1:]].all(0).nonzero().squeeze(-1).tolist() if length > 1 else []:
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


def _groups(frames: list[Tensor], runs: list[_Run], static: Tensor) -> list[Tensor]:
    """The merged tokens of each window, and the others of each frame."""
    merged = torch.zeros(len(static), dtype=torch.bool)
    of_window: dict[int, list[Tensor]] = {}
    for run in runs:
        merged[run.tokens] = True
        of_window.setdefault(run.window, []).append(run.tokens[:1])
    groups = [torch.cat(of_window[window]).sort().values for window in sorted(of_window)]
    return groups + [rest for frame in frames if len(rest := frame[~merged[frame]])]
