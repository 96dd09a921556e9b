"""Temporal segments: which frames belong together. Pure tensors, no model.

Every function returns one segment id per frame, ascending from 0, so that a token's segment is
``segments[frame_of_token]``. A rule of the registry is ``rule(clip) -> (F,) int64 on the CPU``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from framefusion.checks import check_number, check_whole
from framefusion.errors import ArgumentError
from framefusion.reduction.layout import VisualLayout, rows_at
from framefusion.reduction.merging import previous_at_same_patch, previous_similarity

SUDDEN_SHARE = 0.05
"""Share of a frame's patches that a sudden change has at the least; a blinking light is no other scene."""


def frame_scores(features: Tensor, frames: Tensor, patches: Tensor, similarity_lower_bound: float) -> Tensor:
    """How much each frame resembles the one before it.

    The score of frame ``f`` is the share of its patches whose cosine similarity with the same patch of frame
    ``f - 1`` lies above ``similarity_lower_bound`` (FrameFusion, arXiv 2501.01986; HieraVid, arXiv 2604.01881).

    Args:
        features: ``(N, D)``, any float dtype, the visual tokens of one video.
        frames: ``(N,)`` int64, the frame of each token, from 0.
        patches: ``(N,)`` int64, the position of each token inside its frame, from 0.
        similarity_lower_bound: cosine threshold, in [-1, 1].

    Returns:
        ``(F,)`` float32 on the device of ``features``; ``F`` is the largest frame plus one. The first frame, and
        a frame without tokens, score 0.
    """
    count = int(frames.max()) + 1 if frames.numel() else 0
    scores = torch.zeros(count, dtype=torch.float32, device=features.device)
    if not count:
        return scores
    similar = _similar_to_previous(features, frames, patches, similarity_lower_bound)
    tokens = torch.zeros_like(scores).index_add_(0, frames, torch.ones_like(frames, dtype=torch.float32))
    scores.index_add_(0, frames, similar.to(torch.float32))
    return scores / tokens.clamp_min(1)


def _similar_to_previous(features: Tensor, frames: Tensor, patches: Tensor, lower_bound: float) -> Tensor:
    """``(N,)`` bool: whether a token's cosine with the same patch of the frame before is above ``lower_bound``."""
    previous = previous_at_same_patch(frames, patches)
    adjacent = (previous >= 0) & (frames[previous.clamp_min(0)] == frames - 1)
    return adjacent & (previous_similarity(features, previous) > lower_bound)


def by_frame_similarity(scores: Tensor, threshold: float = 0.4) -> Tensor:
    """Start a new segment at every frame whose score is below ``threshold``.

    Args:
        scores: ``(F,)`` from :func:`frame_scores`.
        threshold: share of similar patches below which the scene is taken to have changed. Default 0.4
            (HieraVid).

    Returns:
        ``(F,)`` int64 segment ids; frame 0 is in segment 0.
    """
    starts = scores < threshold
    starts[:1] = False
    return starts.long().cumsum(0)


def transitions(features: Tensor, frames: Tensor) -> Tensor:
    """Cosine of each frame's mean token with that of the frame before it.

    Args:
        features: ``(N, D)``, any float dtype; computed in float32.
        frames: ``(N,)`` int64, the frame of each token, from 0.

    Returns:
        ``(F,)`` float32 on the device of ``features``; 1 for the first frame, 0 beside a frame without tokens.
    """
    count = int(frames.max()) + 1 if frames.numel() else 0
    sums = torch.zeros(count, features.shape[1], dtype=torch.float32, device=features.device)
    sums.index_add_(0, frames, features.float())
    # The cosine with a mean is the cosine with its sum.
    similarity = torch.ones(count, dtype=torch.float32, device=features.device)
    similarity[1:] = F.cosine_similarity(sums[1:], sums[:-1], dim=1)
    return similarity


def by_transitions(similarity: Tensor, minimum: int = 8, threshold: float = 0.9) -> Tensor:
    """Start a new segment at the weakest transitions (DySeg of FastVID, arXiv 2503.11187).

    Args:
        similarity: ``(F,)`` from :func:`transitions`.
        minimum: segments that there are at least, as far as the frames go: the ``minimum - 1`` weakest transitions
            start one each (ties: the earlier frame). Default 8 (FastVID).
        threshold: every transition below this starts one as well. Default 0.9 (FastVID).

    Returns:
        ``(F,)`` int64 segment ids.

    Raises:
        ValueError: ``minimum`` is below 1.
    """
    if minimum < 1:
        raise ArgumentError(f"minimum must be at least 1 segment, got {minimum}.")
    starts = similarity < threshold
    starts[1 + similarity[1:].argsort(stable=True)[: minimum - 1]] = True
    starts[:1] = False
    return starts.long().cumsum(0)


def by_redundancy(features: Tensor, frames: Tensor, patches: Tensor, threshold: float = 0.8) -> Tensor:
    """Cut the frames so that most tokens can merge inside the segments (HoliTom, arXiv 2505.21334).

    In a segment of frames ``i … j`` a patch position is redundant when each of its tokens has a cosine above
    ``threshold`` with the one before it; all but the first then merge, ``j - i`` tokens. Dynamic programming over the
    frames finds the segments with the largest sum. Of equally good ones it takes those that end in the shortest
    segment, so frames that have nothing to merge stay apart.

    Args:
        features: ``(N, D)``, any float dtype, the visual tokens of one video.
        frames: ``(N,)`` int64, the frame of each token, from 0.
        patches: ``(N,)`` int64, the position of each token inside its frame, from 0.
        threshold: cosine threshold, in [-1, 1]. Default 0.8 (HoliTom).

    Returns:
        ``(F,)`` int64 segment ids on the CPU.
    """
    return _by_redundancy(_similar_to_previous(features, frames, patches, threshold).cpu(), frames.cpu(), patches.cpu())


def _by_redundancy(to_previous: Tensor, frames: Tensor, patches: Tensor) -> Tensor:
    """:func:`by_redundancy` of what resembles the token before it, ``(N,)`` bool; all on the CPU."""
    count = int(frames.max()) + 1 if frames.numel() else 0
    if not count:
        return torch.zeros(0, dtype=torch.long)
    similar = torch.zeros(count, int(patches.max()) + 1, dtype=torch.bool)
    similar[frames, patches] = to_previous
    unbroken = torch.zeros(similar.shape[1], dtype=torch.long)
    """For how many frames before the present one each position has been redundant."""
    best, starts = [0], []
    for last in range(count):
        unbroken = torch.where(similar[last], unbroken + 1, 0)
        # Positions that are redundant over at least so many steps.
        positions = torch.bincount(unbroken, minlength=last + 1).flip(0).cumsum(0).flip(0)
        steps = torch.arange(last + 1)
        merged = steps * positions
        value = torch.tensor(best).flip(0) + merged
        # The first of equal values is the shortest segment.
        chosen = int((value == value.max()).nonzero()[0])
        best.append(int(value[chosen]))
        starts.append(last - chosen)
    segments, last = torch.zeros(count, dtype=torch.long), count - 1
    while last >= 0:
        segments[starts[last]] = 1
        last = starts[last] - 1
    return segments.cumsum(0) - 1


def at_sudden_changes(changed: Tensor, tokens: Tensor, factor: float = 4.0) -> Tensor:
    """Where much more of the picture changes than a frame earlier and a frame later.

    What moves changes some patches at every frame. A cut between two scenes that share most of the picture changes few
    patches too, but all of them at once, and both scenes hold still beside it.

    Args:
        changed: ``(F,)`` int64, tokens of each frame that do not resemble the one before them at the same patch
            position; that of the first frame is not read.
        tokens: ``(F,)`` int64, tokens of each frame.
        factor: how many times as many patches as at the frame before, and at the one behind. Default 4.

    Returns:
        ``(F,)`` bool: frames that a change begins at, of :data:`SUDDEN_SHARE` of their tokens at the least. Neither the
        first two frames nor the last: a single frame does not show that it holds still.
    """
    sudden = torch.zeros_like(changed, dtype=torch.bool)
    here, beside = changed[2:-1], torch.maximum(changed[1:-2], changed[3:])
    sudden[2:-1] = (here > 0) & (here >= SUDDEN_SHARE * tokens[2:-1]) & (here >= factor * beside)
    return sudden


def no_longer_than(segments: Tensor, tokens: Tensor, limit: int) -> Tensor:
    """Cut long segments into runs of as equal numbers of frames as can be, as few as keep the limit.

    Args:
        segments: ``(F,)`` int64 segment ids, ascending.
        tokens: ``(F,)`` int64, tokens of each frame.
        limit: most tokens of a segment; a frame that has more is one of its own.

    Returns:
        ``(F,)`` int64 segment ids.
    """
    starts = torch.zeros_like(segments)
    for own in (segments.unique()[:, None] == segments).unbind() if len(segments) else ():
        frames, sizes = own.nonzero().squeeze(-1), tokens[own]
        most = max(1, int(limit // max(int(sizes.max()), 1)))
        parts = -(-len(frames) // most)
        edges = (torch.arange(parts) * len(frames)) // parts
        starts[frames[edges]] = 1
    return starts.cumsum(0) - 1


def fixed_windows(frames: int, window: int) -> Tensor:
    """Consecutive windows of ``window`` frames (DyCoke, arXiv 2411.15024); the last may be shorter.

    Returns:
        ``(frames,)`` int64 segment ids.

    Raises:
        ValueError: ``window`` is below 1.
    """
    if window < 1:
        raise ArgumentError(f"window must be at least 1 frame, got {window}.")
    return torch.arange(frames) // window


def each_frame(frames: int) -> Tensor:
    """Each frame its own segment: ``(frames,)`` int64, ascending."""
    return torch.arange(frames)


def one_segment(frames: int) -> Tensor:
    """The whole video as one segment: ``(frames,)`` int64 zeros."""
    return torch.zeros(frames, dtype=torch.long)


class Clip(NamedTuple):
    """The visual tokens of one video or image, as a rule is given them."""

    features: Tensor
    """``(N, D)``, any float dtype."""
    frame: Tensor
    """``(N,)`` int64 beside the features: the frame of each token, from 0."""
    patch: Tensor
    """``(N,)`` int64 likewise: its place inside the frame."""
    frames: int
    """How many there are."""


@dataclass(frozen=True)
class FrameSimilarity:
    """A new segment where few of the patches resemble the frame before (HieraVid, arXiv 2604.01881).

    Attributes:
        threshold: share of the patches, in [0, 1]. Default 0.4.
        similarity_lower_bound: cosine from which a patch resembles the one before, in [-1, 1]. Default 0.6.
    """

    threshold: float = 0.4
    similarity_lower_bound: float = 0.6

    def __post_init__(self) -> None:
        check_number("FrameSimilarity.threshold", self.threshold, 0, 1)
        check_number("FrameSimilarity.similarity_lower_bound", self.similarity_lower_bound, -1, 1)

    def __call__(self, clip: Clip) -> Tensor:
        scores = frame_scores(clip.features, clip.frame, clip.patch, self.similarity_lower_bound)
        return by_frame_similarity(scores.cpu(), self.threshold)


@dataclass(frozen=True)
class DySeg:
    """A new segment at the weakest transitions (FastVID, arXiv 2503.11187).

    Attributes:
        threshold: cosine of two frames' mean tokens, in [0, 1], below which the second starts one. Default 0.9.
        minimum: segments that there are at least, as far as the frames go. Default 8.
    """

    threshold: float = 0.9
    minimum: int = 8

    def __post_init__(self) -> None:
        check_number("DySeg.threshold", self.threshold, 0, 1)
        check_whole("DySeg.minimum", self.minimum, "segments", 1)

    def __call__(self, clip: Clip) -> Tensor:
        return by_transitions(transitions(clip.features, clip.frame).cpu(), self.minimum, self.threshold)


@dataclass(frozen=True)
class DynamicProgramming:
    """The cut in which most tokens stay similar to the one before them (HoliTom, arXiv 2505.21334), and sudden changes.

    Short scenes that share a background merge more tokens in one segment than in two, so the program alone joins them.

    Attributes:
        threshold: cosine from which they are, in [0, 1]. Default 0.8.
        sudden: a segment also starts where so many times as many patches change as a frame earlier and a frame later,
            at least 1 (:func:`at_sudden_changes`). Default 4; None cuts by the program alone, as HoliTom does.
    """

    threshold: float = 0.8
    sudden: float | None = 4.0

    def __post_init__(self) -> None:
        check_number("DynamicProgramming.threshold", self.threshold, 0, 1)
        if self.sudden is not None:
            check_number("DynamicProgramming.sudden", self.sudden, 1, 1000)

    def __call__(self, clip: Clip) -> Tensor:
        similar = _similar_to_previous(clip.features, clip.frame, clip.patch, self.threshold).cpu()
        frame = clip.frame.cpu()
        segments = _by_redundancy(similar, frame, clip.patch.cpu())
        if self.sudden is None:
            return segments
        tokens = torch.bincount(frame, minlength=len(segments))
        changed = torch.zeros_like(tokens).index_add_(0, frame, (~similar).long())
        starts = at_sudden_changes(changed, tokens, self.sudden)
        starts[1:] |= segments[1:] != segments[:-1]
        return starts.long().cumsum(0)


@dataclass(frozen=True)
class Windows:
    """A new segment every few frames (DyCoke, arXiv 2411.15024).

    Attributes:
        frames: of a segment, at least 1. Default 4.
    """

    frames: int = 4

    def __post_init__(self) -> None:
        check_whole("Windows.frames", self.frames, "frames", 1)

    def __call__(self, clip: Clip) -> Tensor:
        return fixed_windows(clip.frames, self.frames)


Segmentation = Callable[[Clip], Tensor]

SEGMENTATIONS: dict[str, Segmentation] = {
    "frame-similarity": FrameSimilarity(),
    "dyseg": DySeg(),
    "dp": DynamicProgramming(),
    "windows": Windows(),
    "frames": lambda clip: each_frame(clip.frames),
    "single": lambda clip: one_segment(clip.frames),
}
"""The rules by name, those that can be told something with its default."""


def of_tokens(features: Tensor, layout: VisualLayout, rule: Segmentation, longest: int | None = None) -> Tensor:
    """Cut every video and image of a sample.

    Args:
        features: ``(N, D)``, any float dtype, in the order of the layout.
        layout: of the sample, on the CPU.
        rule: how to cut.
        longest: cut segments of more tokens than this into runs of frames; None leaves them.

    Returns:
        ``(N,)`` int64 on the CPU: segment ids that go on across the items, so that none share one.
    """
    result, first = torch.zeros_like(layout.item), 0
    on_device = layout.to(features.device)
    for item, (frames, _, _) in enumerate(layout.grids):
        mine = layout.item == item
        tokens = mine.nonzero().squeeze(-1)
        frame, patch = rows_at(on_device.frame, tokens), rows_at(on_device.patch, tokens)
        of_frame = rule(Clip(rows_at(features, tokens), frame, patch, frames))
        if longest is not None:
            sizes = torch.bincount(layout.frame[mine], minlength=frames)
            of_frame = no_longer_than(of_frame, sizes, longest)
        result[mine] = of_frame[layout.frame[mine]] + first
        first += int(of_frame.max()) + 1 if frames else 0
    return result
