"""Who is in which slot: the index spaces of a prefill, and the ways between them. Pure tensors, no model.

Four spaces meet in a stage:

* a *column* is a place in the row of ``input_ids``; it never changes;
* a *slot* is a place in the present sequence, which stages shorten; it holds one column, or padding (-1);
* a *token* is a place in the layout of a sample: its visual tokens in sequence order;
* an *item* is a video or image of a sample; every token belongs to one.

Columns ascend over the slots of a sample, so what is in sequence order is so in each of the spaces. All of it is on the
CPU, wherever the hidden states are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from framefusion.reduction.layout import VisualLayout


class Visual(NamedTuple):
    """The visual tokens of one sample that are present, in sequence order: ``(n,)`` int64 each, on the CPU."""

    slots: Tensor
    columns: Tensor
    tokens: Tensor
    items: Tensor


@dataclass(frozen=True, eq=False)
class Present:
    """The sequence before a layer.

    Attributes:
        columns: ``(B, n)`` int64: the column that each slot holds, -1 for padding.
        token_at: ``(B, N)`` int64: the token at each column of the original rows, -1 where there is none.
        layouts: of the samples.
    """

    columns: Tensor
    token_at: Tensor
    layouts: tuple[VisualLayout, ...]

    @classmethod
    def whole(cls, layouts: Sequence[VisualLayout], valid: Tensor) -> Present:
        """The sequence that nothing has left yet; ``valid`` is ``(B, N)`` bool on the CPU, False for padding."""
        token_at = torch.full(valid.shape, -1)
        for row, layout in zip(token_at, layouts, strict=True):
            row[layout.columns] = torch.arange(len(layout))
        return cls(torch.where(valid, torch.arange(valid.shape[1]), -1), token_at, tuple(layouts))

    @cached_property
    def padded(self) -> bool:
        """Whether there are padding slots."""
        return bool((self.columns < 0).any())

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each sample, text and visual, without padding."""
        return (self.columns >= 0).sum(1).tolist()

    @cached_property
    def counts(self) -> list[list[int]]:
        """Present tokens of each item, by sample."""
        found = (self.visual(b).items for b in range(len(self.columns)))
        return [
            torch.bincount(items, minlength=len(layout.grids)).tolist()
            for items, layout in zip(found, self.layouts, strict=True)
        ]

    def visual(self, sample: int) -> Visual:
        """The visual tokens of a sample that are present."""
        columns = self.columns[sample]
        tokens = torch.where(columns >= 0, self.token_at[sample, columns.clamp_min(0)], -1)
        slots = (tokens >= 0).nonzero().squeeze(-1)
        tokens = tokens[slots]
        return Visual(slots, columns[slots], tokens, self.layouts[sample].item[tokens])

    def slots_of(self, sample: int, columns: Tensor) -> Tensor:
        """The slots that hold some columns, all of which must be present: ``(n,)`` int64 each."""
        held = self.columns[sample]
        slots = (held >= 0).nonzero().squeeze(-1)
        return slots[torch.searchsorted(held[slots], columns)]

    def only(self, stays: Tensor) -> tuple[Present, Tensor]:
        """What is left of the sequence, aligned to the right.

        Args:
            stays: ``(B, N)`` bool: whether each column of the original rows stays.

        Returns:
            The sequence that goes on, and ``(B, n')`` int64: the slot that each of its slots was; 0 for padding.
        """
        staying = (self.columns >= 0) & stays.gather(1, self.columns.clamp_min(0))
        kept = [row.nonzero().squeeze(-1) for row in staying]
        origin = torch.zeros(len(kept), max(map(len, kept)), dtype=torch.long)
        columns = torch.full_like(origin, -1)
        for b, slots in enumerate(kept):
            first = origin.shape[1] - len(slots)
            origin[b, first:] = slots
            columns[b, first:] = self.columns[b, slots]
        return replace(self, columns=columns), origin
