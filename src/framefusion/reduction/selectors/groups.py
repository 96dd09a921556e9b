"""What rules that work frame by frame share."""

from __future__ import annotations

import torch
from torch import Tensor

from framefusion.reduction.selectors.candidates import Candidates


def by_frame(candidates: Candidates, segment: int) -> list[Tensor]:
    """The tokens of a segment, frame by frame in temporal order: ascending int64 indices, on the CPU."""
    members = (candidates.segments == segment).nonzero().squeeze(-1)
    frames = candidates.frames[members]
    members = members[torch.argsort(frames, stable=True)]
    _, sizes = frames.unique(return_counts=True)
    return list(members.split(sizes.tolist()))
