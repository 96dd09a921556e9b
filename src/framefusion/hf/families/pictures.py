"""Families whose processors know images only: frames go in as images behind their times."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from framefusion.hf.families.base import Call, Family, layout_of, take_items
from framefusion.hf.families.frames import FrameLabels
from framefusion.reduction.layout import Kind, Span, VisualItem, VisualLayout, runs


@dataclass(frozen=True)
class Picture:
    """One image in a prompt, or one frame of a video.

    Attributes:
        columns: ``(n,)`` int64, ascending.
        grid: rows and columns of its tokens; ``(1, n)`` where they lie in no plain grid.
    """

    columns: Tensor
    grid: tuple[int, int]

    @property
    def span(self) -> Span:
        """Its first column and the one past its last, with what stands between."""
        return int(self.columns[0]), int(self.columns[-1]) + 1


class PictureFamily(Family):
    """Two or more pictures of one grid are the frames of one video when nothing but labels with a time or number stands
    between them, see :class:`~framefusion.hf.families.frames.FrameLabels`."""

    frames_as_images = True
    needs_names: frozenset[Kind] = frozenset({"image"})
    projector: tuple[str, ...] = ("multi_modal_projector",)
    verified = "masked oracle on a random-weight model"
    labels = FrameLabels(shortest=5, number=6, repeats=True, tail=1)
    """``Frame from``, minutes and seconds and a colon, and what opens an image."""

    def layouts(self, model: Any, call: Call) -> list[VisualLayout]:
        assert call.input_ids is not None
        rows = call.input_ids.cpu()
        found = [runs(row == model.config.image_token_id) if call.has("image") else [] for row in rows]
        sizes, layouts = iter(self.sizes(model, call, found)), []
        for b, (row, mine) in enumerate(zip(rows, found, strict=True)):
            pictures = {own.span: own for own in self.pictures(model, row.tolist(), mine, sizes, f"input_ids[{b}]")}
            groups = self.labels.group(row.tolist(), list(pictures))
            layouts.append(layout_of([_item([pictures[span] for span in group]) for group in groups]))
        return layouts

    def sizes(self, model: Any, call: Call, found: list[list[Span]]) -> list[int]:
        """Tokens of each image of the batch, in order, for families that need them to tell images apart.

        Args:
            model: the multimodal model.
            call: what it was called with.
            found: per sample, the runs of placeholders.
        """
        return []

    @abstractmethod
    def pictures(
        self, model: Any, row: list[int], found: list[Span], sizes: Iterator[int], where: str
    ) -> list[Picture]:
        """The images of one sample, in order.

        Args:
            model: the multimodal model.
            row: the ids of the sample.
            found: its runs of placeholders.
            sizes: of all images of the batch; as many are taken as the sample has.
            where: the argument that holds the placeholders, for errors.
        """


def of_sizes(found: list[Span], sizes: Iterator[int], where: str) -> list[Tensor]:
    """The columns of each image, whose tokens may lie in one run or in several, next to others or not."""
    columns = torch.cat([torch.zeros(0, dtype=torch.long), *(torch.arange(*span) for span in found)])
    return [item.columns for item in take_items("image", columns, ((1, 1, size) for size in sizes), where)]


def of_groups(groups: list[list[Span]], *, square: bool) -> list[Picture]:
    """Images of one or more tiles.

    Args:
        groups: the runs of each image.
        square: whether a tile's tokens lie in a square grid.
    """
    pictures = []
    for group in groups:
        columns = torch.cat([torch.arange(*span) for span in group])
        side = math.isqrt(len(columns))
        plain = square and len(group) == 1 and side**2 == len(columns)
        pictures.append(Picture(columns, (side, side) if plain else (1, len(columns))))
    return pictures


def tiled(found: list[Span], gap: int) -> list[list[Span]]:
    """Runs with at most ``gap`` tokens between them, together."""
    groups: list[list[Span]] = []
    for span in found:
        if groups and span[0] - groups[-1][-1][1] <= gap:
            groups[-1].append(span)
        else:
            groups.append([span])
    return groups


def _item(group: list[Picture]) -> VisualItem:
    kind: Kind = "video" if len(group) > 1 else "image"
    return VisualItem(kind, (len(group), *group[0].grid), torch.cat([picture.columns for picture in group]))
