"""What a selector is given, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class Candidates(NamedTuple):
    """The visual tokens of one video or image that a stage chooses from, in sequence order.

    ``features`` and ``relevance`` are where the model is, the rest on the CPU.
    """

    features: Tensor
    """``(N, D)``, any float dtype: hidden states before the layer of the stage. May be a view of the model's own:
    read it, do not write into it."""
    relevance: Tensor | None
    """``(N,)`` float32, or float64 where the model is, positive; None where there is no attention."""
    segments: Tensor
    """``(N,)`` int64: temporal segment of each token."""
    frames: Tensor
    """``(N,)`` int64: frame of each token, from 0."""
    patches: Tensor
    """``(N,)`` int64: ``row * W + column`` inside the frame."""
    grid: tuple[int, int, int]
    """``(T, H, W)`` of the whole video in tokens; tokens of earlier stages may be missing."""
    budgets: Mapping[int, int]
    """``{segment: tokens to keep}``, none above the length of its segment."""
    seed: int = 0
    """For rules that draw at random."""
    merge_above: float | None = None
    """Dropped tokens go into the most similar kept one of their segment, where the cosine is at least this; None: they
    are dropped. Whoever asks sees to it; a selector that has the similarities at hand may return the ``target``."""
    layer: int = 0
    """The decoder layer before which the stage lies, for rules that are others there."""

    @property
    def total(self) -> int:
        """Tokens to keep over all segments."""
        return sum(self.budgets.values())


class Selected(NamedTuple):
    """What stays, and optionally where the rest goes."""

    indices: Tensor
    """``(K,)`` int64, distinct, in any order."""
    target: Tensor | None = None
    """``(N,)`` int64: the kept token that each dropped one is averaged into (itself for a kept one), -1 for a token
    that leaves no trace. None drops without merging."""
    features: Tensor | None = None
    """``(K, D)``: new hidden states of the kept tokens in the order of ``indices``, for rules that weigh what they
    merge in their own way. None: with a ``target``, the plain mean of each kept token and those merged into it."""
