"""Positions on three axes (M-RoPE) of prompts whose videos are pruned. Pure tensors, no engine.

The engine lays out a prompt before it knows which tokens of a video stay, and only the encoder's output reaches the
decoder's side. So each visual token carries its place in extra channels of its features. These have the features'
dtype: bfloat16 knows whole numbers up to 256 only, so every number is written as digits of base 256.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

BASE = 256
"""Whole numbers up to this are exact in bfloat16, float16 and float32."""
CHANNELS = 9
"""Offset, and position on each of three axes, two digits each; and the number of tokens of the item before its first
visual one."""


class Places(NamedTuple):
    """Where the tokens of one item are, counted from the item's own first token."""

    offsets: Tensor
    """``(n,)`` int64: the token's place in the item's run of the prompt, consecutive."""
    positions: Tensor
    """``(3, n)`` int64: positions, from that of the item's first token."""
    lead: int
    """Tokens of the run before its first visual one: the time stamp and the start mark of Qwen3-VL."""


class Item(NamedTuple):
    """One video or image in a prompt."""

    offset: int
    """Column of its first token."""
    length: int
    """How many tokens it has in the prompt."""
    span: int
    """How many positions it takes up, whatever has been pruned: text behind it goes on after so many."""


def encode(places: Places, dtype: torch.dtype) -> Tensor:
    """``(n, CHANNELS)`` to append to the features."""
    numbers = torch.stack([places.offsets, *places.positions])
    digits = torch.stack([numbers // BASE, numbers % BASE], 1).flatten(0, 1)
    lead = torch.full_like(places.offsets, places.lead)[None]
    if int(numbers.min() if numbers.numel() else 0) < 0 or int(numbers.max() if numbers.numel() else 0) >= BASE**2:
        raise ValueError(f"a position outside 0 … {BASE**2 - 1} cannot be carried.")
    return torch.cat([digits, lead]).T.to(dtype)


def decode(channels: Tensor) -> Places:
    """What :func:`encode` wrote."""
    digits = channels.T.long()
    numbers = digits[0 : CHANNELS - 1 : 2] * BASE + digits[1 : CHANNELS - 1 : 2]
    return Places(numbers[0], numbers[1:], int(digits[-1, 0]) if digits.shape[1] else 0)


def before_features(length: int, items: Sequence[Item]) -> Tensor:
    """``(3, length)`` int64 positions of a prompt: those of the text are final.

    Those of visual tokens are not known yet; each has the last position of its item until :func:`place` is told.

    Args:
        length: tokens of the prompt.
        items: its videos and images in order of their offsets.
    """
    parts, column, position = [], 0, 0
    for item in items:
        text = item.offset - column
        parts += [torch.arange(position, position + text), torch.full((item.length,), position + text + item.span - 1)]
        column, position = item.offset + item.length, position + text + item.span
    parts.append(torch.arange(position, position + length - column))
    return torch.cat(parts).expand(3, -1).clone()


def place(visual: Tensor, chunks: Sequence[Places], positions: Tensor, computed: int) -> Tensor:
    """The positions of a prompt once the places of some of its visual tokens are known.

    Args:
        visual: ``(N,)`` bool, the columns of the prompt with placeholders.
        chunks: for each item in the window that is being computed its tokens there; only the first may lack the
            item's beginning. Between items there is text, such as the end mark of the first.
        positions: ``(3, N)`` int64 as they are by now; those of text are final.
        computed: columns before the window.

    Returns:
        ``(3, N)`` int64, a new tensor.
    """
    positions, column = positions.clone(), computed
    for chunk in chunks:
        count = len(chunk.offsets)
        if not count:
            continue
        index = int(chunk.offsets[0])
        if not index:
            column = int(visual[column:].nonzero()[0]) + column - chunk.lead
        first = column - index
        start = int(positions[0, first - 1]) + 1 if first else 0
        positions[:, column : column + count] = chunk.positions.to(positions) + start
        column += count
    return positions
