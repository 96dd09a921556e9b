"""Where the visual tokens of a sequence are and what they show. Pure tensors, no model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class VisualLayout:
    """The visual tokens of one sample, in sequence order.

    Attributes:
        columns: ``(N,)`` int64, ascending: their columns in the row of ``input_ids``.
        video: ``(N,)`` int64: which video of the sample, from 0.
        frame: ``(N,)`` int64: the frame inside that video, from 0 (a temporal patch of the encoder counts as one
            frame).
        patch: ``(N,)`` int64: ``row * W + column`` inside the frame (the *patch type* of FrameFusion).
        grids: ``(T, H, W)`` of each video, in tokens.
    """

    columns: Tensor
    video: Tensor
    frame: Tensor
    patch: Tensor
    grids: tuple[tuple[int, int, int], ...]

    def __len__(self) -> int:
        return len(self.columns)

    def to(self, device: torch.device) -> VisualLayout:
        """The same layout on another device."""
        return VisualLayout(
            self.columns.to(device),
            self.video.to(device),
            self.frame.to(device),
            self.patch.to(device),
            self.grids,
        )

    @classmethod
    def from_grids(cls, starts: list[int], grids: list[tuple[int, int, int]]) -> VisualLayout:
        """The layout of videos that each lie in one run of columns, in raster order (t, h, w).

        Args:
            starts: first column of each video.
            grids: ``(T, H, W)`` of each video, in tokens.
        """
        parts: list[list[Tensor]] = [[torch.zeros(0, dtype=torch.long)] for _ in range(4)]
        for v, (start, (t, h, w)) in enumerate(zip(starts, grids, strict=True)):
            order = torch.arange(t * h * w)
            values = (order + start, torch.full_like(order, v), order // (h * w), order % (h * w))
            for part, value in zip(parts, values, strict=True):
                part.append(value)
        columns, video, frame, patch = (torch.cat(part) for part in parts)
        return cls(columns, video, frame, patch, tuple(grids))


def runs(mask: Tensor) -> list[tuple[int, int]]:
    """The runs of True in a ``(N,)`` bool tensor, as ``(first, past the last)``."""
    edges = torch.diff(mask.int(), prepend=mask.new_zeros(1).int(), append=mask.new_zeros(1).int())
    starts = (edges == 1).nonzero().squeeze(-1).tolist()
    ends = (edges == -1).nonzero().squeeze(-1).tolist()
    return list(zip(starts, ends, strict=True))
