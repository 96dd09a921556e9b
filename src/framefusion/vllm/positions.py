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

from framefusion.errors import ArgumentError

BASE = 256
"""Whole numbers up to this are exact in bfloat16, float16 and float32."""
DIGITS = 3
NUMBERS = 7
"""Offset, position on each of three axes, and lead, visual tokens and span of the item."""
CHANNELS = DIGITS * NUMBERS


class Places(NamedTuple):
    """Where some tokens of one item are, counted from the item's own first token."""

    offsets: Tensor
    """``(n,)`` int64: the token's place in the item's run of the prompt, consecutive."""
    positions: Tensor
    """``(3, n)`` int64: positions, from that of the item's first token."""
    lead: int
    """Tokens of the run before its first visual one: the time stamp and the start mark of Qwen3-VL."""
    visual: int
    """Visual tokens of the whole item that stay; they follow each other in the prompt."""
    span: int
    """How many positions the item takes up, see :class:`Item`."""


class Item(NamedTuple):
    """One video or image in a prompt."""

    offset: int
    """Column of its first token."""
    length: int
    """How many tokens it has in the prompt."""
    span: int
    """How many positions it takes up, whatever has been pruned: text behind it goes on after so many."""


def encode(places: Places, dtype: torch.dtype) -> Tensor:
    """``(n, CHANNELS)`` to append to the features.

    Raises:
        ValueError: a number has more than :data:`DIGITS` digits.
    """
    of_item = places.offsets.new_tensor([places.lead, places.visual, places.span])
    numbers = torch.cat([places.offsets[None], places.positions, of_item[:, None].expand(-1, len(places.offsets))])
    if numbers.numel() and (int(numbers.min()) < 0 or int(numbers.max()) >= BASE**DIGITS):
        raise ArgumentError(f"a number outside 0 … {BASE**DIGITS - 1} cannot be carried.")
    digits = [numbers // BASE**power % BASE for power in range(DIGITS)]
    return torch.cat(digits).T.to(dtype)


def decode(channels: Tensor) -> Places:
    """What :func:`encode` wrote."""
    digits = channels.T.long().reshape(DIGITS, NUMBERS, -1)
    numbers = sum((digits[power] * BASE**power for power in range(DIGITS)), torch.zeros_like(digits[0]))
    lead, visual, span = (int(number[0]) if number.numel() else 0 for number in numbers[4:])
    return Places(numbers[0], numbers[1:4], lead, visual, span)


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


def place(visual: Tensor, chunks: Sequence[Places], positions: Tensor, computed: int) -> tuple[Tensor, int]:
    """The positions of a prompt once the places of some of its visual tokens are known.

    Args:
        visual: ``(N,)`` bool, the columns of the prompt with placeholders.
        chunks: for each item in the window that is being computed its tokens there; only the first may lack the
            item's beginning.
        positions: ``(3, N)`` int64 as they are by now; those of text are final.
        computed: columns before the window.

    Returns:
        ``(3, N)`` int64, a new tensor; and the position that the next token would have.
    """
    positions, column, after = positions.clone(), computed, 0
    end = -1
    """The column behind the item before; where two follow each other, the tokens of the first say too little."""
    for chunk in chunks:
        count = len(chunk.offsets)
        if not count:
            continue
        offset = int(chunk.offsets[0])
        if not offset:
            column = _run_of(visual, chunk.visual, column) - chunk.lead
        first = column - offset
        start = after if first == end else int(positions[0, first - 1]) + 1 if first else 0
        positions[:, column : column + count] = chunk.positions.to(positions) + start
        column += count
        after, end = start + chunk.span, column
    return positions, max(after, int(positions.max()) + 1 if positions.numel() else 0)


def _run_of(visual: Tensor, count: int, first: int) -> int:
    """The first column from ``first`` on from which ``count`` placeholders follow each other; text may hold others."""
    columns = visual[first:].nonzero().squeeze(-1)
    if len(columns) >= count:
        complete = columns[count - 1 :] - columns[: len(columns) - count + 1] == count - 1
        if complete.any():
            return first + int(columns[complete.nonzero()[0]])
    raise ArgumentError(f"the prompt has no {count} placeholders in a row from column {first} on.")
