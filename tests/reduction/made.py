"""A batch to reduce: two videos, text only, one video."""

from __future__ import annotations

import torch

from framefusion import FrameFusion
from framefusion.reduction.layout import VisualItem, VisualLayout
from framefusion.reduction.reducer import Reduction

LAYERS = 4
GRIDS = [[(4, 3, 3), (5, 2, 2)], [], [(3, 2, 5)]]


def setup(settings: FrameFusion, seed: int = 0, first: int = 1) -> tuple[Reduction, torch.Tensor]:
    """Three samples of one left-padded batch: two videos, text only, one video."""
    rows, layouts = [], []
    for grids in GRIDS:
        starts, at = [], 3
        for t, h, w in grids:
            starts.append(at)
            at += t * h * w + 2
        rows.append((starts, at))
    length = max(at for _, at in rows)
    valid = torch.zeros(len(GRIDS), length, dtype=torch.bool)
    for b, ((starts, at), grids) in enumerate(zip(rows, GRIDS, strict=True)):
        valid[b, length - at :] = True
        layouts.append(
            VisualLayout.of([VisualItem.run("video", g, length - at + s) for s, g in zip(starts, grids, strict=True)])
        )
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(len(GRIDS), length, 16, generator=generator)
    return Reduction(settings, layouts, valid, LAYERS, first), hidden


def run(settings: FrameFusion, seed: int = 0) -> tuple[Reduction, torch.Tensor]:
    reduction, hidden = setup(settings, seed)
    received = None
    for layer in range(LAYERS):
        hidden = reduction.before_layer(layer, hidden, received)
        assert hidden.shape[:2] == reduction.columns.shape
        received = torch.rand(hidden.shape[:2], generator=torch.Generator().manual_seed(layer))
    return reduction, hidden
