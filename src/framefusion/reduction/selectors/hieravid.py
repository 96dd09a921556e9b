"""HieraVid: similar tokens merge over time before the decoder, segment-wise DPP inside."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from framefusion.reduction.merging import choose_merges, merge_runs, previous_at_same_patch, previous_similarity
from framefusion.reduction.selectors.candidates import Candidates, Selected
from framefusion.reduction.selectors.dpp import DPP, Kernel

ANY = -2.0
"""Below every cosine: what merges is said by how many shall stay alone."""


@dataclass(frozen=True)
class HieraVid(Kernel):
    """Spatially merged tokens before layer 0, diverse and relevant ones of each segment behind (HieraVid,
    arXiv 2604.01881); meant for segments by frame similarity.

    Before layer 0 the tokens most similar to the one before them at the same place merge into it, across segments,
    until as many are left as the budgets say together: a run of such tokens becomes its first one, with the mean of
    all. Where every token but the first one of each place has merged and that does not do, evenly spaced ones of these
    stay and the rest leaves no trace.

    Before a later layer, :class:`~framefusion.reduction.selectors.dpp.DPP` in each segment.
    """

    def __call__(self, candidates: Candidates) -> Tensor | Selected:
        return DPP(self.gamma, self.later_frames)(candidates) if candidates.layer else _merged(candidates)


def _merged(candidates: Candidates) -> Selected:
    features, total = candidates.features, candidates.total
    previous = previous_at_same_patch(candidates.frames, candidates.patches).to(features.device)
    similarity = previous_similarity(features, previous)
    merges = choose_merges(similarity, ANY, len(previous) - total)
    target = merge_runs(features, previous, merges).target.cpu()
    kept = (target == torch.arange(len(target))).nonzero().squeeze(-1)
    if len(kept) > total:
        kept = kept[((torch.arange(total) + 0.5) * len(kept) / max(1, total)).long()]
        target = torch.where(torch.isin(target, kept), target, -1)
    return Selected(kept, target)
