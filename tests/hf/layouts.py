"""What a family says about a prompt made by hand, and what it should say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from framefusion.hf.families import Call, Family
from framefusion.reduction.layout import VisualLayout
from tests.hf.case import PAD

Item = tuple[str, tuple[int, int, int], list[int]]
"""Kind, grid and columns."""


def layouts_of(family: Family, config: Any, rows: list[list[int]], **arguments: Any) -> list[VisualLayout]:
    """What a family says about a left-padded batch."""
    length = max(map(len, rows))
    ids = torch.tensor([[PAD] * (length - len(row)) + row for row in rows])
    return family.layouts(SimpleNamespace(config=SimpleNamespace(**config)), Call(ids, None, arguments))


def encoded(**features: Any) -> dict[str, Any]:
    """What ``generate()`` passes on."""
    return {"mm_encoder_outputs": {kind: SimpleNamespace(pooler_output=part) for kind, part in features.items()}}


def check(layout: VisualLayout, items: list[Item], cells: list[list[int]] | None = None) -> None:
    """A layout is exactly these items, with all cells of their grids unless given."""
    columns, of_item, frames, patches = [], [], [], []
    for index, (_, (t, h, w), mine) in enumerate(items):
        shown = list(range(t * h * w)) if cells is None else cells[index]
        assert len(shown) == len(mine)
        columns += mine
        of_item += [index] * len(mine)
        frames += [cell // (h * w) for cell in shown]
        patches += [cell % (h * w) for cell in shown]
    assert layout.columns.tolist() == columns
    assert layout.item.tolist() == of_item
    assert layout.frame.tolist() == frames
    assert layout.patch.tolist() == patches
    assert layout.kinds == tuple(kind for kind, _, _ in items)
    assert layout.grids == tuple(grid for _, grid, _ in items)


def kinds_and_frames(layout: VisualLayout) -> list[tuple[str, int]]:
    return [(kind, grid[0]) for kind, grid in zip(layout.kinds, layout.grids, strict=True)]
