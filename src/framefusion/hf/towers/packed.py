"""The packed run: all rows of all frames that are encoded go through the blocks at once.

A query attends to its whole frame, or window, as ever. The keys and values of places that are not encoded anew are
those of their latest encoded version, which runs in the same pass: so each block first computes the keys and values of
all rows, then gathers for each frame the ones that it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from framefusion.errors import StateError
from framefusion.hf.towers import running
from framefusion.hf.towers.base import Rows


class Chunk(NamedTuple):
    """Rows that attend to each other: those of a frame or a window."""

    first: int
    end: int
    """The packed rows that are its queries."""
    keys: Tensor
    """``(P,)`` int64: the packed row that is the latest version of each of its rows."""
    mask: Tensor | None
    """What the tower hides of it, ``(1, 1, n or 1, P)``; None for nothing."""


class Run(running.Run):
    """One call of a tower over part of its rows.

    Args:
        rows: that run.
        implementation: name of the tower's own attention function.
        blocks: how many, from the first, run over these alone; those behind run over all rows. None for all blocks.
    """

    def __init__(self, rows: Rows, implementation: str, blocks: int | None = None) -> None:
        super().__init__(implementation)
        self.rows, self.blocks = rows, blocks
        self.chunks: list[Chunk] = []
        self._shape: tuple[int, ...] = ()
        self._known: dict[int, tuple[Any, Any]] = {}

    def pack(self, hidden: Tensor) -> Tensor:
        """The rows that run, of all: ``(N, D)`` → ``(R, D)``, or ``(B, P, D)`` → ``(1, R, D)``."""
        self._shape = tuple(hidden.shape[:-1])
        flat, rows = hidden.flatten(0, -2), self.rows
        # Where the blocks are: pixels may have been elsewhere.
        self.rows = Rows(rows.kept.to(hidden.device), rows.source.to(hidden.device), rows.unit)
        if len(flat) != len(self.rows.source):
            raise StateError(
                f"the vision tower runs over {len(flat)} rows, but its pixels say {len(self.rows.source)}; this "
                "release of transformers lays them out in another way. Attach without tower."
            )
        packed = flat[self.rows.kept]
        return packed if hidden.ndim == 2 else packed[None]

    def spread(self, hidden: Tensor) -> Tensor:
        """All rows, or units, of those that ran; copies in the places that were not encoded anew."""
        rows = self.rows
        flat, source = hidden.flatten(0, -2), rows.source
        if len(flat) * rows.unit == len(rows.kept):
            source = source[:: rows.unit] // rows.unit
        elif len(flat) != len(rows.kept):
            return hidden
        spread = flat[source.to(hidden.device)]
        return spread if hidden.ndim == 2 else spread.view(*self._shape, -1)

    def behind_end(self, hidden: Tensor) -> Tensor:
        """All of them again."""
        return hidden if self.over else self.spread(hidden)

    def enter(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a block, for the rows that run."""
        self.over = self.over or index == self.blocks
        if self.over:
            return self._given(args, kwargs, self.spread) if index == self.blocks else (args, kwargs)
        if index == 0:
            args, kwargs = self._given(args, kwargs, self.pack)
        kwargs = dict(kwargs)
        mask = args[1] if len(args) > 1 else kwargs.get("attention_mask")
        if isinstance(mask, Tensor):
            args = (args[0], None, *args[2:]) if len(args) > 1 else args
            kwargs |= {"attention_mask": None} if "attention_mask" in kwargs else {}
        bounds = kwargs.get("cu_seqlens")
        if bounds is None:
            frames, places = self._shape
            self.chunks = self._once(mask, lambda: self._chunks(range(0, frames * places + 1, places), mask))
        else:
            self.chunks = self._once(bounds, lambda: self._chunks(bounds.tolist(), None))
            # One call of the attention function for all: it cuts the rows itself.
            kwargs["cu_seqlens"] = bounds.new_tensor([0, len(self.rows.kept)])
        if kwargs.get("position_embeddings") is not None:
            tables = kwargs["position_embeddings"]
            kept = self.rows.kept
            kwargs["position_embeddings"] = self._once(
                tables, lambda: tuple(table[kept.to(table.device)] for table in tables)
            )
        return args, kwargs

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, function: Callable[..., Any], **kwargs: Any
    ) -> Tensor:
        """Attention of packed rows, frame by frame."""
        parts = [
            function(
                module,
                query[:, :, chunk.first : chunk.end],
                key[:, :, chunk.keys.to(key.device)],
                value[:, :, chunk.keys.to(key.device)],
                chunk.mask,
                **kwargs,
            )[0]
            for chunk in self.chunks
        ]
        return torch.cat(parts, dim=1)

    @staticmethod
    def _given(
        args: tuple[Any, ...], kwargs: dict[str, Any], change: Callable[[Tensor], Tensor]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a block with its hidden states changed."""
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    def _once(self, given: Any, make: Any) -> Any:
        """What was made of an argument that all blocks get."""
        if id(given) not in self._known:
            # The argument is kept as well: so its id stays its own.
            self._known[id(given)] = given, make()
        return self._known[id(given)][1]

    def _chunks(self, bounds: Sequence[int], mask: Tensor | None) -> list[Chunk]:
        kept, source = self.rows.kept, self.rows.source
        at = torch.searchsorted(kept, torch.tensor(list(bounds), device=kept.device)).tolist()
        if mask is not None and mask.ndim != 4:
            raise StateError(
                "the vision tower pads its frames and hides the padding with this attention implementation in a way "
                "that tower='changed' cannot follow; load the model with attn_implementation='sdpa'."
            )
        chunks = []
        for index, (first, end) in enumerate(pairwise(at)):
            if first == end:
                continue
            hidden = None
            if mask is not None:
                hidden = mask[index : index + 1]
                if hidden.shape[2] > 1:
                    hidden = hidden[:, :, kept[first:end].to(mask.device) - bounds[index]]
            chunks.append(Chunk(first, end, source[bounds[index] : bounds[index + 1]], hidden))
        return chunks
