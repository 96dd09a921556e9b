"""Where the visual tokens of a sequence are and what they show. Pure tensors, no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from framefusion.errors import ArgumentError

Kind = Literal["video", "image"]
Span = tuple[int, int]
"""The first column of a run of placeholders and the one past its last."""


@dataclass(frozen=True)
class VisualItem:
    """One video or image of a sample.

    Attributes:
        kind: ``"video"`` or ``"image"``.
        grid: ``(T, H, W)`` in tokens. An image whose tokens lie in no plain grid may say ``(1, 1, tokens)``.
        columns: ``(n,)`` int64, ascending: the columns of its tokens, in raster order (t, h, w).
        cells: ``(n,)`` int64, ascending: which cell of the grid each token shows, for encoders that leave some out;
            None when there is one token per cell.
    """

    kind: Kind
    grid: tuple[int, int, int]
    columns: Tensor
    cells: Tensor | None = None

    @classmethod
    def run(cls, kind: Kind, grid: tuple[int, int, int], first: int) -> VisualItem:
        """An item whose tokens lie in one run of columns from ``first`` on, one per cell."""
        t, h, w = grid
        return cls(kind, grid, torch.arange(first, first + t * h * w))


@dataclass(frozen=True)
class VisualLayout:
    """The visual tokens of one sample, in sequence order.

    Attributes:
        columns: ``(N,)`` int64, ascending: their columns in the row of ``input_ids``.
        item: ``(N,)`` int64: which video or image of the sample, from 0.
        frame: ``(N,)`` int64: the frame inside that item, from 0 (a temporal patch of the encoder counts as one
            frame).
        patch: ``(N,)`` int64: ``row * W + column`` inside the frame (the *patch type* of FrameFusion).
        grids: ``(T, H, W)`` of each item, in tokens.
        kinds: ``"video"`` or ``"image"`` for each item.
    """

    columns: Tensor
    item: Tensor
    frame: Tensor
    patch: Tensor
    grids: tuple[tuple[int, int, int], ...]
    kinds: tuple[Kind, ...]

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def counts(self) -> list[int]:
        """Tokens of each item."""
        return torch.bincount(self.item.cpu(), minlength=len(self.grids)).tolist()

    def to(self, device: torch.device) -> VisualLayout:
        """The same layout on another device."""
        columns, item, frame, patch = (part.to(device) for part in (self.columns, self.item, self.frame, self.patch))
        return VisualLayout(columns, item, frame, patch, self.grids, self.kinds)

    @classmethod
    def of(cls, items: Sequence[VisualItem]) -> VisualLayout:
        """The layout of a sample's items, given in the order of their first columns.

        Raises:
            ValueError: an item's columns do not match its grid, or two items overlap.
        """
        parts: list[list[Tensor]] = [[torch.zeros(0, dtype=torch.long)] for _ in range(4)]
        for index, visual in enumerate(items):
            t, h, w = visual.grid
            cells = torch.arange(t * h * w) if visual.cells is None else visual.cells
            if len(cells) != len(visual.columns):
                raise ArgumentError(
                    f"item {index} has {len(visual.columns)} columns for {len(cells)} cells of {t}×{h}×{w}."
                )
            area = max(h * w, 1)
            values = (visual.columns, torch.full_like(cells, index), cells // area, cells % area)
            for part, value in zip(parts, values, strict=True):
                part.append(value)
        columns, of_item, frame, patch = (torch.cat(part) for part in parts)
        if (columns.diff() <= 0).any():
            raise ArgumentError("the items of a sample must lie one after the other, each with ascending columns.")
        grids, kinds = tuple(visual.grid for visual in items), tuple(visual.kind for visual in items)
        return cls(columns, of_item, frame, patch, grids, kinds)

    def only(self, kind: Kind) -> VisualLayout:
        """The layout without the items of other kinds."""
        chosen = [index for index, own in enumerate(self.kinds) if own == kind]
        if len(chosen) == len(self.kinds):
            return self
        items = []
        for index in chosen:
            mine, (_, h, w) = self.item == index, self.grids[index]
            cells = self.frame[mine] * (h * w) + self.patch[mine]
            items.append(VisualItem(kind, self.grids[index], self.columns[mine], cells))
        return VisualLayout.of(items)

    def between(self, first: int, end: int) -> VisualLayout:
        """The tokens in the columns from ``first`` to before ``end``, columns and frames of each item from 0."""
        items = []
        for index, (kind, (_, h, w)) in enumerate(zip(self.kinds, self.grids, strict=True)):
            mine = (self.item == index) & (self.columns >= first) & (self.columns < end)
            if bool(mine.any()):
                frame = self.frame[mine] - self.frame[mine][0]
                cells = frame * (h * w) + self.patch[mine]
                items.append(VisualItem(kind, (int(frame[-1]) + 1, h, w), self.columns[mine] - first, cells))
        return VisualLayout.of(items)

    def followed_by(self, other: VisualLayout, columns: int, *, continues: bool) -> VisualLayout:
        """This layout and that of what comes behind it.

        Args:
            other: its layout.
            columns: before it.
            continues: whether its first item is more of this one's last: the frames go on.
        """
        if not len(self) or not len(other):
            continues = False
        if continues and (self.kinds[-1], self.grids[-1][1:]) != (other.kinds[0], other.grids[0][1:]):
            raise ArgumentError(
                f"frames of {other.grids[0][1:]} tokens cannot go on behind frames of {self.grids[-1][1:]}; begin "
                "another video."
            )
        items, frame = other.item + len(self.grids), other.frame.clone()
        grids, kinds = self.grids + other.grids, self.kinds + other.kinds
        if continues:
            items, frames = items - 1, self.grids[-1][0]
            frame[other.item == 0] += frames
            t, h, w = other.grids[0]
            grids = (*self.grids[:-1], (frames + t, h, w), *other.grids[1:])
            kinds = self.kinds + other.kinds[1:]
        return VisualLayout(
            torch.cat([self.columns, other.columns + columns]),
            torch.cat([self.item, items]),
            torch.cat([self.frame, frame]),
            torch.cat([self.patch, other.patch]),
            grids,
            kinds,
        )


def runs(mask: Tensor) -> list[Span]:
    """The runs of True in a ``(N,)`` bool tensor, as ``(first, past the last)``."""
    edges = torch.diff(mask.int(), prepend=mask.new_zeros(1).int(), append=mask.new_zeros(1).int())
    starts = (edges == 1).nonzero().squeeze(-1).tolist()
    ends = (edges == -1).nonzero().squeeze(-1).tolist()
    return list(zip(starts, ends, strict=True))


def rows_at(x: Tensor, index: Tensor) -> Tensor:
    """The rows of ``x`` at ascending positions on the CPU: a view where they are consecutive, as one video's are."""
    if len(index) and int(index[-1]) - int(index[0]) == len(index) - 1:
        return x[int(index[0]) : int(index[-1]) + 1]
    return x[index.to(x.device)]
