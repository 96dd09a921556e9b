"""Merging of similar tokens. Pure tensors, no model.

Across frames (FrameFusion, arXiv 2501.01986) a token merges into the token before it at the same patch position when
the two are similar; a chain of such tokens is a *run* and collapses into its first token. In a pruning, those that are
dropped may merge into the most similar ones that stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from framefusion.checks import check_number
from framefusion.errors import ArgumentError
from framefusion.reduction.rules import resolve
from framefusion.selection import nearest as nearest_kept

CHUNK_ENTRIES = 1 << 20
"""Features that are widened at once."""


@dataclass(frozen=True)
class Merging:
    """Similar tokens of consecutive frames merge before the first pruning (FrameFusion, arXiv 2501.01986).

    Attributes:
        similarity_lower_bound: cosine, in [-1, 1], from which a token merges into the one before it at the same patch
            position. Default 0.6.
        ratio_lower_bound: merging ends once a layer merges a smaller share than this, in [0, 1]. Default 0.1.
    """

    similarity_lower_bound: float = 0.6
    ratio_lower_bound: float = 0.1

    def __post_init__(self) -> None:
        check_number("Merging.similarity_lower_bound", self.similarity_lower_bound, -1, 1)
        check_number("Merging.ratio_lower_bound", self.ratio_lower_bound, 0, 1)


@dataclass(frozen=True)
class Absorb:
    """A dropped token is averaged into the kept one of its segment that is most similar to it.

    Attributes:
        lower_bound: cosine, in [-1, 1], from which it is; what is less similar leaves no trace. Default 0.9: near
            copies, whose mean has less noise than each of them.
    """

    lower_bound: float = 0.9

    def __post_init__(self) -> None:
        check_number("Absorb.lower_bound", self.lower_bound, -1, 1)

    def __call__(self, features: Tensor, segments: Tensor, kept: Tensor) -> Tensor:
        return most_similar_kept(features, segments, kept, self.lower_bound)


class Merged(NamedTuple):
    """Result of :func:`merge_into`, for ``N`` tokens of which ``M`` stay."""

    features: Tensor
    """``(M, D)``: the tokens that stay, in sequence order; the first token of a run holds the run's mean."""
    kept: Tensor
    """``(M,)`` int64, ascending: which tokens stay."""
    target: Tensor
    """``(N,)`` int64: the token each one now lives in; itself if it stayed, -1 if it left no trace."""


def previous_at_same_patch(frames: Tensor, patches: Tensor) -> Tensor:
    """The token before each token at the same patch position.

    Before anything has merged that is the token of the previous frame. Later it is the merged token that the
    previous frame has become part of.

    Args:
        frames: ``(N,)`` int64, frame of each token.
        patches: ``(N,)`` int64, position of each token inside its frame.

    Returns:
        ``(N,)`` int64 index of the predecessor, -1 where there is none.
    """
    previous = torch.full_like(patches, -1)
    if patches.numel() < 2:
        return previous
    by_frame = torch.argsort(frames, stable=True)
    order = by_frame[torch.argsort(patches[by_frame], stable=True)]
    same_patch = patches[order[1:]] == patches[order[:-1]]
    previous[order[1:]] = torch.where(same_patch, order[:-1], -1)
    return previous


def previous_similarity(features: Tensor, previous: Tensor) -> Tensor:
    """Cosine similarity of each token with its predecessor.

    Args:
        features: ``(N, D)``, any float dtype; computed in float32.
        previous: ``(N,)`` int64 from :func:`previous_at_same_patch`.

    Returns:
        ``(N,)`` float32; ``-inf`` where there is no predecessor.
    """
    before, chunk = previous.clamp_min(0), max(1, CHUNK_ENTRIES // max(1, features.shape[1]))
    products, squares = [], []
    for rows, others in zip(features.split(chunk), before.split(chunk), strict=True):
        wide = rows.float()
        products.append(torch.linalg.vecdot(wide, features[others].float()))
        squares.append(torch.linalg.vecdot(wide, wide))
    scale = torch.cat(squares).sqrt().clamp_min(1e-12).reciprocal()
    # Squares beyond float32 leave no direction to compare.
    similarity = (torch.cat(products) * scale * scale[before]).nan_to_num(0.0)
    return similarity.masked_fill(previous < 0, float("-inf"))


def choose_merges(similarity: Tensor, lower_bound: float, limit: int) -> Tensor:
    """Which tokens merge into their predecessor: all that are similar enough, but at most ``limit``.

    Args:
        similarity: ``(N,)`` from :func:`previous_similarity`.
        lower_bound: smallest cosine similarity that may merge.
        limit: when more tokens than this are similar enough, only the most similar ones merge (ties: the
            earlier token).

    Returns:
        ``(N,)`` bool.
    """
    merges = similarity >= lower_bound
    if int(merges.sum()) <= limit:
        return merges
    order = torch.argsort(similarity, descending=True, stable=True)
    chosen = torch.zeros_like(merges)
    chosen[order[: max(limit, 0)]] = True
    return chosen


def merge_runs(features: Tensor, previous: Tensor, merges: Tensor) -> Merged:
    """Collapse every run into its first token, with the plain mean of the tokens present in the run.

    Earlier merges carry no extra weight, as in the published code.

    Args:
        features: ``(N, D)``, any float dtype; the mean is taken in float32 (float64 stays float64).
        previous: ``(N,)`` int64 from :func:`previous_at_same_patch`.
        merges: ``(N,)`` bool: the tokens that merge into their predecessor.

    Returns:
        A :class:`Merged`; a run of one token keeps its features bit for bit.

    Raises:
        ValueError: a token without a predecessor is asked to merge.
    """
    return merge_into(features, run_targets(previous, merges))


def run_targets(previous: Tensor, merges: Tensor) -> Tensor:
    """The first token of each one's run, for :func:`merge_into`.

    Args:
        previous, merges: as in :func:`merge_runs`.

    Returns:
        ``(N,)`` int64 where they are; itself for a token that does not merge.

    Raises:
        ValueError: a token without a predecessor is asked to merge.
    """
    if bool((merges & (previous < 0)).any()):
        position = int((merges & (previous < 0)).nonzero()[0])
        raise ArgumentError(f"merges[{position}] is set, but token {position} has no predecessor to merge into.")
    target = torch.where(merges, previous, torch.arange(len(previous), device=previous.device))
    # Pointer doubling: after t rounds every token points up to 2**t steps up its chain.
    while True:
        further = target[target]
        if torch.equal(further, target):
            break
        target = further
    return target


def most_similar_kept(features: Tensor, segments: Tensor, kept: Tensor, lower_bound: float) -> Tensor:
    """For each dropped token the most similar one that its segment keeps.

    Args:
        features: ``(N, D)``, any float dtype; cosines are computed in float32.
        segments: ``(N,)`` int64 segment ids, on the CPU.
        kept: ``(N,)`` bool, on the CPU.
        lower_bound: smallest cosine similarity that may merge.

    Returns:
        ``(N,)`` int64 on the CPU, for :func:`merge_into`: itself for a kept token, the kept token with the largest
        cosine (ties: the lowest index) for a dropped one, -1 where that is below the bound or the segment keeps none.
    """
    nearest, similarity = nearest_kept.most_similar_kept(features, segments, kept)
    return torch.where(kept | (similarity >= lower_bound), nearest, -1)


def merge_into(features: Tensor, target: Tensor) -> Merged:
    """Average tokens into those they point at.

    Args:
        features: ``(N, D)``, any float dtype; the mean is taken in float32 (float64 stays float64).
        target: ``(N,)`` int64 on the same device: itself for a token that stays, the token that one goes into, or
            -1 for one that leaves no trace.

    Returns:
        A :class:`Merged`, each token that stays with the plain mean of itself and those that point at it; one that
        nothing points at keeps its features bit for bit.
    """
    kept = (target == torch.arange(len(target), device=target.device)).nonzero().squeeze(-1)
    result, (groups, means) = features[kept], group_means(features, target)
    result[torch.searchsorted(kept, groups)] = means
    return Merged(result, kept, target)


def group_means(features: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """What :func:`merge_into` changes, and nothing else: most tokens that stay are alone.

    Args:
        features, target: as in :func:`merge_into`.

    Returns:
        ``(G,)`` int64, ascending, the tokens that stay and that others point at; ``(G, D)`` their means, in the dtype
        of the features.
    """
    stays = target == torch.arange(len(target), device=target.device)
    moving = (~stays & (target >= 0)).nonzero().squeeze(-1)
    moving = moving[stays[target[moving]]]
    groups, own, sizes = target[moving].unique(return_inverse=True, return_counts=True)
    wide = torch.promote_types(features.dtype, torch.float32)
    total = features[groups].to(wide).index_add_(0, own, features[moving].to(wide))
    return groups, (total / (sizes + 1)[:, None]).to(features.dtype)


def no_trace(features: Tensor, segments: Tensor, kept: Tensor) -> Tensor:
    """The ``target`` of tokens that go into none."""
    return torch.where(kept, torch.arange(len(kept)), -1)


DroppedRule = Callable[[Tensor, Tensor, Tensor], Tensor]

DROPPED: dict[str, DroppedRule] = {"drop": no_trace, "absorb": Absorb()}
"""What becomes of dropped tokens, by name: functions with the arguments of :func:`most_similar_kept` but for its bound,
and its result."""


def merging_of(field: str, given: Any) -> Merging | None:
    """What a field's value means: True for the defaults, None or False for no merging."""
    if given is None or isinstance(given, bool):
        return Merging() if given else None
    if not isinstance(given, Merging):
        raise ArgumentError(f"{field} must be True, False or a Merging, got {given!r}.")
    return given


def dropped_of(field: str, given: Any) -> str | Absorb:
    """What a field's value means; ``"merge"`` is what ``"absorb"`` was called before merging had a field of its own."""
    return resolve(field, "absorb" if given == "merge" else given, DROPPED)
