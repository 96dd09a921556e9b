"""A DINOv2 most of whose blocks attend within windows, as the vision tower of Qwen2.5-VL does. The weights stay."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

FULL = (2, 5, 8, 11)
"""The blocks that attend to the whole frame, of twelve: every third, and the last as in Qwen2.5-VL."""


def window_rows(grid: int, side: int) -> Tensor:
    """``(W, 1 + side²)`` int64: of the rows of a frame, the class token and then its patches, those of each window.

    Args:
        grid: patches across and down a frame.
        side: patches across and down a window; divides ``grid``.
    """
    places = torch.arange(1, 1 + grid * grid).view(grid // side, side, grid // side, side)
    patches = places.transpose(1, 2).reshape(-1, side * side)
    return torch.cat([torch.zeros_like(patches[:, :1]), patches], 1)


class WindowBlock(nn.Module):
    """A block that is told by ``cu_seqlens`` which rows attend to each other."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    @property
    def attention(self) -> nn.Module:
        return self.layer.attention

    def forward(self, hidden_states: Tensor, cu_seqlens: Tensor) -> Tensor:
        """``(…, D)`` to the same; ``cu_seqlens`` int64: the rows with which runs of rows begin, and their end."""
        rows, output = hidden_states.flatten(0, -2), None
        pairs = list(pairwise(cu_seqlens.tolist()))
        for length in {end - first for first, end in pairs}:
            firsts = torch.tensor([first for first, end in pairs if end - first == length], device=rows.device)
            own = firsts[:, None] + torch.arange(length, device=rows.device)
            found = self.layer(rows[own])
            output = found.new_empty(rows.shape) if output is None else output
            output[own] = found
        return output.view_as(hidden_states)


class WindowedEncoder(nn.Module):
    """The blocks of a DINOv2, in place of its ``Dinov2Encoder``; of the hidden states it says the last alone.

    As in RF-DETR's DINOv2, each window begins with a class token of its own, and in blocks without windows all rows of
    a frame attend to each other.
    """

    def __init__(self, layers: Sequence[nn.Module], side: int, full: Sequence[int] = FULL) -> None:
        super().__init__()
        self.layer = nn.ModuleList(WindowBlock(layer) for layer in layers)
        self.side, self.full = side, frozenset(full)

    def forward(self, hidden_states: Tensor, attention_mask: None = None, **_: Any) -> BaseModelOutput:
        """``(T, 1 + grid², D)``, the class token first, to the same; the class token is the mean of its copies."""
        frames, rows = hidden_states.shape[:2]
        windows = window_rows(isqrt(rows - 1), self.side).to(hidden_states.device)
        hidden = hidden_states[:, windows.flatten()]
        total = frames * windows.numel()
        inside = torch.arange(0, total + 1, windows.shape[1], device=hidden.device)
        whole = torch.arange(0, total + 1, windows.numel(), device=hidden.device)
        for index, block in enumerate(self.layer):
            hidden = block(hidden, cu_seqlens=whole if index in self.full else inside)
        hidden = hidden.unflatten(1, windows.shape)
        # (T, W, 1 + side², D): behind the class tokens the patches, each at one place.
        patches = hidden[:, :, 1:].flatten(1, 2)[:, windows[:, 1:].flatten().argsort()]
        hidden = torch.cat([hidden[:, :, 0].mean(1, keepdim=True), patches], 1)
        return BaseModelOutput(last_hidden_state=hidden, hidden_states=(hidden,))


def windowed(tower: Any, side: int, full: Sequence[int] = FULL) -> Any:
    """Let a ``Dinov2Model`` attend within windows, in place.

    Args:
        tower: for square frames.
        side: patches across and down a window.
        full: the blocks that attend to the whole frame.

    Raises:
        ValueError: the windows do not fill a frame.
    """
    grid = tower.config.image_size // tower.config.patch_size
    if grid % side:
        raise ValueError(f"windows of {side} × {side} patches do not fill frames of {grid} × {grid}")
    tower.encoder = WindowedEncoder(list(tower.encoder.layer), side, full)
    return tower
