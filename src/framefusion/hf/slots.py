"""Which columns of the conversation the layers of a shortened KV cache hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


class Slots:
    """What one shortened layer holds. Layers of one kind share one, by which they are known.

    No dataclass, which dynamo would hash by its fields.

    Args:
        columns: ``(B, n)`` int64, ascending: the column of the conversation that each slot holds, -1 for padding.
        length: columns that the conversation had when these slots were filled; the slots after them hold the
            columns from there on, none left out.
        padded: whether any slot is padding.
    """

    def __init__(self, columns: Tensor, length: int, padded: bool) -> None:
        self.columns, self.length, self.padded = columns, length, padded
        self._ends: dict[int, Slots] = {}

    @cached_property
    def floor(self) -> int:
        """Slots before those that hold the last columns of the conversation, one after the other, in every row."""
        slots = self.columns.shape[1]
        # (B, n): True where a slot holds what it would hold had nothing been dropped behind it.
        whole = self.columns == torch.arange(self.length - slots, self.length, device=self.columns.device)
        return slots - int(whole.all(0).flip(0).long().cumprod(0).sum())

    def rows(self, take: Callable[[Tensor], Tensor]) -> Slots:
        """The same of other rows, see :meth:`CacheLayout.rows`."""
        columns = take(self.columns)
        return Slots(columns, self.length, self.padded and bool((columns < 0).any()))

    def as_held(self, held: Slots) -> Slots:
        """Those of these slots that a layer holds for good, where ``held`` is all of them; equal ones are shared."""
        prefilled, kept = self.columns.shape[1], held.columns.shape[1]
        if kept <= prefilled:
            columns = self.columns[:, prefilled - kept :]
        else:
            # A static layer: the slots of its buffers that are filled later.
            columns = torch.cat([self.columns, held.columns[:, prefilled:]], dim=1)
        same = bool(columns.equal(held.columns))
        return held if same else Slots(columns, self.length, bool((columns < 0).any()))

    def last(self, count: int) -> Slots:
        """The last ``count`` of them; the same object each time, so that layers of one kind share it."""
        if count >= self.columns.shape[1]:
            return self
        if count not in self._ends:
            columns = self.columns[:, -count:]
            self._ends[count] = Slots(columns, self.length, bool((columns < 0).any()))
        return self._ends[count]


@dataclass
class CacheLayout:
    """The shortened layers of a cache.

    Attributes:
        layers: by index.
        steps: the latest decoding masks, by all that they depend on but the mask that the model made, which stands
            beside them: layers of one kind share one.
        expected: the layer whose mask is ready, so that it may read the cache; None between forward passes.
        prefix: the beginning of the prompt that the cache was made of, a :class:`~framefusion.hf.prefix.Prefix`; None
            where the model itself filled it.
        pads: ``(B,)`` int64 on the CPU: columns of padding between that and what comes behind.
    """

    layers: dict[int, Slots] = field(default_factory=dict)
    steps: dict[Any, tuple[Any, Any]] = field(default_factory=dict)
    expected: int | None = None
    prefix: Any = None
    pads: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes its masks anew."""
        return {**self.__dict__, "steps": {}, "expected": None}

    def rows(self, take: Callable[[Tensor], Tensor]) -> None:
        """Follow a change of the batch.

        Args:
            take: ``(B, n)`` to ``(B', n)``, as it was done to keys and values.
        """
        taken = {slots: slots.rows(take) for slots in self.layers.values()}
        self.layers = {layer: taken[slots] for layer, slots in self.layers.items()}
        self.pads = None if self.pads is None else take(self.pads[:, None])[:, 0]
        self.steps.clear()


def conversation_columns(slots: Slots | None, kv_length: int, seen: int, batch: int, device: torch.device) -> Tensor:
    """The column of the conversation in each slot of a layer, ``(B, kv_length)`` int64, -1 for padding of a prefill.

    Args:
        slots: what a reduced prefill left in the layer; None when it dropped nothing there.
        kv_length: slots that the layer holds.
        seen: columns of the conversation so far.
        batch: ``B``.
        device: of the result.
    """
    if slots is None:
        # A sliding-window layer holds the last columns only.
        return torch.arange(seen - kv_length, seen, device=device).expand(batch, -1)
    prefilled = slots.columns[:, :kv_length].to(device)
    tail = torch.arange(slots.length, slots.length + kv_length - prefilled.shape[1], device=device)
    return torch.cat([prefilled, tail.expand(batch, -1)], dim=1)
