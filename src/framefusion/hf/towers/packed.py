"""The packed run: all rows of all frames that are encoded go through the blocks at once.

A query attends to its whole frame, or window, as ever. The keys and values of places that are not encoded anew are
those of their latest encoded version, which runs in the same pass: so each block first computes the keys and values of
all rows, then gathers for each frame the ones that it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from framefusion.errors import StateError
from framefusion.hf import methods, recording
from framefusion.hf.towers.base import Rows, Tower

_NAME = "framefusion_changed"


class Chunk(NamedTuple):
    """Rows that attend to each other: those of a frame or a window."""

    first: int
    end: int
    """The packed rows that are its queries."""
    keys: Tensor
    """``(P,)`` int64: the packed row that is the latest version of each of its rows."""
    mask: Tensor | None
    """What the tower hides of it, ``(1, 1, n or 1, P)``; None for nothing."""


class Run:
    """One call of a tower over part of its rows.

    Args:
        rows: that run.
        implementation: name of the tower's own attention function.
    """

    def __init__(self, rows: Rows, implementation: str) -> None:
        self.rows, self.implementation = rows, implementation
        self.chunks: list[Chunk] = []
        self._shape: tuple[int, ...] = ()
        self._known: dict[int, tuple[Any, Any]] = {}

    def pack(self, hidden: Tensor) -> Tensor:
        """The rows that run, of all: ``(N, D)`` → ``(R, D)``, or ``(B, P, D)`` → ``(1, R, D)``."""
        self._shape = tuple(hidden.shape[:-1])
        flat = hidden.flatten(0, -2)
        if len(flat) != len(self.rows.source):
            raise StateError(
                f"the vision tower runs over {len(flat)} rows, but its pixels say {len(self.rows.source)}; this "
                "release of transformers lays them out in another way. Attach without tower."
            )
        packed = flat[self.rows.kept.to(hidden.device)]
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

    def enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a block, for the rows that run."""
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


attached: WeakSet[nn.Module] = WeakSet()
"""Models whose tower encodes only what changed."""

active: ContextVar[Run | None] = ContextVar("framefusion_packed", default=None)
"""The packed run under way, in this context."""


@contextmanager
def running(run: Run | None) -> Iterator[None]:
    """The tower's blocks run packed inside the block."""
    token = active.set(run)
    try:
        yield
    finally:
        active.reset(token)


class PackedConfig(recording.RecordingConfig):
    """A config that names the packed attention function during a packed run."""

    def __getattr__(self, name: str) -> Any:
        if name == "_attn_implementation" and active.get() is not None:
            return _NAME
        return super().__getattr__(name)


def _attention(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any) -> Any:
    """Attention of packed rows, ``(1, heads, R, d)`` each, frame by frame; ``(1, R, heads, d)``."""
    run = active.get()
    assert run is not None
    function = recording.attention_function(module, run.implementation)
    # Inside, the module sees its real config: flash attention picks its kernel by it.
    with running(None):
        parts = [
            function(
                module,
                query[:, :, chunk.first : chunk.end],
                key[:, :, chunk.keys.to(key.device)],
                value[:, :, chunk.keys.to(key.device)],
                chunk.mask,
                **kwargs,
            )[0]
            for chunk in run.chunks
        ]
    return torch.cat(parts, dim=1), None


def hooks(kind: Tower, tower: Any) -> Iterator[Callable[[], None]]:
    """Let a tower run over part of its rows wherever a packed run is under way; gives the functions that undo it."""
    for index, block in enumerate(kind.blocks(tower)):
        yield block.register_forward_pre_hook(partial(_before_block, index), with_kwargs=True).remove
        yield _configured(kind.attention(block))
    for end in kind.ends(tower):
        yield end.register_forward_hook(_behind).remove
    yield methods.replace(tower, "forward", _whole_outputs)


def _before_block(index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    run = active.get()
    if run is None:
        return None
    if index == 0:
        if args:
            args = (run.pack(args[0]), *args[1:])
        else:
            kwargs = {**kwargs, "hidden_states": run.pack(kwargs["hidden_states"])}
    return run.enter(args, kwargs)


def _behind(module: nn.Module, args: Any, output: Any) -> Any:
    run = active.get()
    if run is None:
        return None
    if isinstance(output, tuple):
        return (run.spread(output[0]), *output[1:])
    return run.spread(output)


def _configured(module: Any) -> Callable[[], None]:
    original = module.config
    module.config = PackedConfig(original, module)

    def undo() -> None:
        module.config = original

    return undo


def _whole_outputs(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The tower's forward pass, whose hidden states are those of all rows."""

    def whole(*args: Any, **kwargs: Any) -> Any:
        run, output = active.get(), forward(*args, **kwargs)
        if run is None:
            return output
        for name in ("last_hidden_state", "hidden_states"):
            value = getattr(output, name, None)
            if isinstance(value, Tensor):
                output[name] = run.spread(value)
            elif value is not None:
                output[name] = tuple(own if own is None else run.spread(own) for own in value)
        return output

    return whole


AttentionInterface.register(_NAME, _attention)
