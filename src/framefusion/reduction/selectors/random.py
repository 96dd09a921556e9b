"""Tokens drawn at random: the control that several published rules do not beat."""

from __future__ import annotations

import torch
from torch import Tensor

from framefusion.reduction.selectors.candidates import Candidates


def select(candidates: Candidates) -> Tensor:
    """Draw each segment's budget without replacement.

    The draw is a function of the tokens, the total and ``candidates.seed`` alone: the same whatever was drawn before,
    and another one for another video.
    """
    segments = candidates.segments
    mixed = candidates.seed
    content = candidates.features[:1, :64].float().contiguous().view(torch.int32).long().sum()
    for number in (len(segments), candidates.total, int(content)):
        mixed = (mixed * 1_000_003 + number) % (1 << 63)
    generator = torch.Generator().manual_seed(mixed)
    chosen = [torch.zeros(0, dtype=torch.long)]
    for segment, count in candidates.budgets.items():
        members = (segments == segment).nonzero().squeeze(-1)
        chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(chosen)
