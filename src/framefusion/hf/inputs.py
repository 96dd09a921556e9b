"""What decoder layers are called with while the sequence is shorter than the prompt; made once for all of one kind."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from framefusion.hf import masks
from framefusion.hf.slots import Slots, conversation_columns


@dataclass(frozen=True, eq=False)
class Prompt:
    """What does not change during one prefill.

    Attributes:
        config: of the decoder; names the attention implementation.
        length: ``N``, columns of the prompt.
        past_length: columns of the conversation that the cache holds before it.
        past_valid: ``(B, past_length)`` bool on the CPU, False for padding; None in a first prefill.
        offset: columns before its first one in the rotary embeddings that the model makes.
        resumed: whether the first columns come from an earlier forward pass, so that the masks that the model makes
            are not of all of it.
        ids: ``(B, N)`` int64, the token ids of its columns; None where the call had none.
        groups: ``(N,)`` int64 on the CPU, only where ``resumed``: columns of one group see each other; None where every
            column sees those before it alone.
    """

    config: Any
    length: int
    past_length: int
    past_valid: Tensor | None
    offset: int = 0
    resumed: bool = False
    groups: Tensor | None = None
    ids: Tensor | None = None


@dataclass(frozen=True)
class LayerKind:
    """All in which layers that see the same sequence may differ; those of equal kind share their inputs.

    Attributes:
        past: what an earlier reduced prefill left in the layer's cache; None when it dropped nothing there.
        kv_length: slots that the layer's cache held before.
        window: of a sliding-window layer, in columns; None without.
        buffers: slots of a static cache's buffers; None for other caches.
        dtype: of the hidden states.
        device: of the hidden states.
    """

    past: Slots | None
    kv_length: int
    window: int | None
    buffers: int | None
    dtype: torch.dtype
    device: torch.device


class LayerInputs:
    """The inputs of the layers of one kind between two stages, each computed once, when the first layer needs it.

    They follow from these arguments and from what the model hands to its layers, nothing else.

    Args:
        prompt: of the prefill.
        columns: ``(B, n)`` int64 on the CPU: the column of the prompt at each slot of the sequence, -1 padding.
        kind: of the layers.
    """

    def __init__(self, prompt: Prompt, columns: Tensor, kind: LayerKind) -> None:
        self._prompt, self._columns, self._kind = prompt, columns, kind
        self._positions: list[tuple[Any, tuple[Tensor, ...]]] = []
        self._masks: list[tuple[Any, Any]] = []

    @cached_property
    def _past(self) -> Tensor | None:
        """``(B, P)`` int64 on the CPU: the column of the conversation in each slot held before, -1 for padding."""
        valid = self._prompt.past_valid
        if valid is None:
            return None
        kind, device = self._kind, torch.device("cpu")
        past = conversation_columns(kind.past, kind.kv_length, self._prompt.past_length, len(self._columns), device)
        seen = (past >= 0) & valid.gather(1, past.clamp_min(0))
        return torch.where(seen, past, -1)

    @cached_property
    def _own(self) -> Tensor:
        """``(B, n)`` int64 on the CPU: the column of the conversation at each slot of the sequence, -1 padding."""
        return torch.where(self._columns >= 0, self._columns + self._prompt.past_length, -1)

    @cached_property
    def keys(self) -> Tensor:
        """``(B, P + n)`` int64 on the CPU: the column of the conversation of each key, -1 padding."""
        return self._own if self._past is None else torch.cat([self._past, self._own], dim=1)

    @cached_property
    def valid(self) -> Tensor:
        """``(B, P + n)`` bool on the CPU: which keys are no padding."""
        return self.keys >= 0

    @cached_property
    def padding_mask(self) -> Tensor | None:
        """``(B, P + n)`` bool on the layers' device, False for padding; None when nothing is."""
        return None if bool(self.valid.all()) else self.valid.to(self._kind.device)

    @cached_property
    def slots(self) -> Slots:
        """What the cache of the layers will hold."""
        end = self._prompt.past_length + self._prompt.length
        return Slots(self.keys.to(self._kind.device), end, not bool(self.valid.all()))

    def positions(self, embeddings: tuple[Tensor, ...] | None) -> tuple[Tensor, ...] | None:
        """The rotary embeddings of the tokens that are there; ``embeddings`` are those of the whole prompt. None for
        layers that get none."""
        if embeddings is None:
            return None
        for given, gathered in self._positions:
            if given is embeddings:
                return gathered
        gathered = gather_positions(embeddings, self._columns + self._prompt.offset)
        self._positions.append((embeddings, gathered))
        return gathered

    def mask(self, given: Any) -> Any:
        """The attention mask, in the form that the implementation takes.

        Args:
            given: the mask of the whole prompt, as the model made it for the layer: None, 2D, dense or a block mask.
        """
        for known, mask in self._masks:
            if known is given:
                return mask
        if self._prompt.resumed:
            mask = self._resumed()
        else:
            mask = self._cut(given) if masks.is_dense(given) else self._rebuilt()
        self._masks.append((given, mask))
        return mask

    @property
    def _buffers(self) -> int | None:
        """Keys that a static cache hands over. What exceeds the buffers of a sliding-window layer it hands over once,
        with the prefill."""
        return None if self._kind.buffers is None else max(self._kind.buffers, self._columns.shape[1])

    def _cut(self, given: Tensor) -> Tensor:
        """``(B, 1, n, P + n or buffers)`` from ``(B or 1, 1, N, kv)``."""
        device, before = self._kind.device, None
        if self._past is not None:
            before = masks.before(self._past.to(device), self._own.to(device), self._kind.window)
        return masks.shortened(given.to(device), self._columns.to(device), before, self._buffers)

    def _resumed(self) -> Any:
        """Made from the columns alone."""
        device, groups = self._kind.device, self._prompt.groups
        columns = self._columns.to(device)
        own = None if groups is None else groups.to(device)[columns.clamp_min(0)]
        config, length = self._prompt.config, self._prompt.length
        return masks.decoding(config, self._hidden, columns, self.padding_mask, self._kind.window, length, groups=own)

    @property
    def _hidden(self) -> Tensor:
        """What ``transformers`` asks for a batch, a length, a dtype and a device alone."""
        return torch.empty(*self._columns.shape, 0, dtype=self._kind.dtype, device=self._kind.device)

    def _rebuilt(self) -> Any:
        """Made anew by ``transformers``, which leaves a window out where it does not know what came before."""
        config, past, window = self._prompt.config, self._past, self._kind.window
        if past is not None and window is not None:
            keys, end = self.keys.to(self._kind.device), self._prompt.past_length + self._prompt.length
            mask = masks.decoding(config, self._hidden, keys, self.padding_mask, window, end)
        else:
            mask = masks.causal(config, self._hidden, self.padding_mask, 0 if past is None else past.shape[1])
        if self._buffers is not None and masks.is_dense(mask):
            mask = masks.padded_to(mask, self._buffers)
        return mask


def gather_positions(embeddings: tuple[Tensor, ...], columns: Tensor) -> tuple[Tensor, ...]:
    """The rotary embeddings of the tokens that stay: ``(..., B or 1, N, d)`` to ``(..., B, n, d)``.

    Sliced, never renumbered: every token keeps its original position.
    """
    batch, length = columns.shape
    index = columns.clamp_min(0)[:, :, None]

    def gather(table: Tensor) -> Tensor:
        table = table.expand(*table.shape[:-3], batch, *table.shape[-2:])
        # (B, n, 1) to (..., B, n, d): M-RoPE has its three channels ahead of the batch.
        return table.gather(-2, index.to(table.device).expand(*table.shape[:-2], length, table.shape[-1]))

    return tuple(gather(table) for table in embeddings)
