"""The kept token that each dropped one is most similar to: a step around backends that do not say it themselves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from framefusion.selection.numerics import products
from framefusion.selection.plan import Picks, Segment
from framefusion.selection.problem import Answer, Ask, Problem

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
            cosine = products(F.normalize(features[part.to(features.device)].float(), dim=-1), unit)
            best = cosine.max(dim=1)
            nearest[part], similarity[part] = staying[best.indices.cpu()], best.values.cpu()
    return nearest, similarity


def answer(problem: Problem, ask: Ask) -> Answer:
    """Complete the picks of an ``assigned`` problem where the backend has left that out."""
    answers = ask(problem)
    if not problem.assigned:
        return answers
    samples = zip(problem.features, problem.samples, answers, strict=True)
    return [_assigned(features, segments, picks) for features, segments, picks in samples]


def _assigned(features: Tensor, segments: Sequence[Segment], picks: Sequence[Picks]) -> list[Picks]:
    ids = torch.full((len(features),), -1, dtype=torch.int64, device="cpu")
    kept = torch.zeros(len(features), dtype=torch.bool, device="cpu")
    for place, (segment, own) in enumerate(zip(segments, picks, strict=True)):
        if own.nearest is None:
            ids[segment.rows] = place
            kept[own.rows.cpu()] = True
    nearest, similarity = most_similar_kept(features, ids, kept)
    return [
        p if p.nearest is not None else p._replace(nearest=nearest[s.rows], similarity=similarity[s.rows])
        for s, p in zip(segments, picks, strict=True)
    ]
