"""The kept token that each dropped one is most similar to."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SIMILARITY_ENTRIES = 1 << 22
"""Similarities, or numbers of normalised features, that are held at once."""


def most_similar_kept(features: Tensor, segments: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """For each token the most similar one that its segment keeps.

    :data:`SIMILARITY_ENTRIES` similarities at a time, never all pairs of tokens.

    Args:
        features: (N, D), any float dtype; cosines are computed in float32.
        segments: (N,) integer segment ids on the CPU, −1 for tokens outside every segment.
        kept: (N,) bool, on the CPU.

    Returns:
        (N,) int64 on the CPU: itself for a kept token, the kept token with the largest cosine (ties: the lowest index)
        for another one, −1 where its segment keeps none. (N,) float32 on the CPU: that cosine, −Inf for none.
    """
    nearest = torch.where(kept, torch.arange(len(kept), device="cpu"), -1)
    similarity = torch.full(kept.shape, -torch.inf, dtype=torch.float32, device="cpu").masked_fill_(kept, 1.0)
    for segment in segments[~kept].unique().tolist():
        mine = segments == segment
        staying, leaving = (mine & kept).nonzero().squeeze(-1), (mine & ~kept).nonzero().squeeze(-1)
        if segment < 0 or not len(staying):
            continue
        unit = F.normalize(features[staying.to(features.device)].float(), dim=-1)
        for part in leaving.split(max(1, SIMILARITY_ENTRIES // max(len(staying), features.shape[1]))):
            cosine = F.normalize(features[part.to(features.device)].float(), dim=-1) @ unit.T
            best = cosine.max(dim=1)
            nearest[part], similarity[part] = staying[best.indices.cpu()], best.values.cpu()
    return nearest, similarity
