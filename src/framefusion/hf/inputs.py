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
        within: whether groups are of layers with windows alone, which cut them.
    """

    config: Any
    length: int
    past_length: int
    past_valid: Tensor | None
    offset: int = 0
    resumed: bool = False
    groups: Tensor | None = None
    within: bool = False
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
        lender: the inputs of the layer whose keys and values these attend to, where they have none of their own.
        queries: how many of the last slots the layers run on; None for all.
    """

    def __init__(
        self,
        prompt: Prompt,
        columns: Tensor,
        kind: LayerKind,
        lender: LayerInputs | None = None,
        queries: int | None = None,
    ) -> None:
        self._prompt, self._present, self._kind, self._lender = prompt, columns, kind, lender
        self._columns = columns if queries is None else columns[:, -queries:]
        self._positions: list[tuple[Any, Any]] = []
        self._masks: list[tuple[Any, Any]] = []

    @cached_property
    def _past(self) -> Tensor | None:
        """``(B, P)`` int64 on the CPU: the column of the conversation in each slot held before, -1 for padding."""
        valid = self._prompt.past_valid
        if self._lender is not None:
            return None if self._lender._past is None else self.keys[:, : self._lender._past.shape[1]]
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
        """``(B, P + n)`` int64 on the CPU: the column of the conversation of each key, -1 for padding and for keys of a
        lender that stages behind it have dropped."""
        if self._lender is not None:
            return self._borrowed(self._lender)
        return self._own if self._past is None else torch.cat([self._past, self._own], dim=1)

    def _borrowed(self, lender: LayerInputs) -> Tensor:
        """The keys of a lender, without those that these layers do not see."""
        keys, first, past = lender.keys, self._prompt.past_length, self._kind.past
        # (B, N + 1): the columns of the conversation that these layers see; the last one stands for none.
        length = first + self._prompt.length
        seen = torch.zeros(len(keys), length + 1, dtype=torch.bool)
        seen[:, 0 if past is None else past.length : first] = True
        for columns in ([] if past is None else [past.columns.cpu()]) + [self._present + first * (self._present >= 0)]:
            seen.scatter_(1, torch.where(columns >= 0, columns, length), True)
        seen[:, length] = False
        visible = seen.gather(1, torch.where(keys >= 0, keys, length))
        return keys if bool((visible == (keys >= 0)).all()) else torch.where(visible, keys, -1)

    @property
    def _like_lender(self) -> bool:
        """Whether these layers see what their lender sees, each token as much as there."""
        lender = self._lender
        if lender is None or self._prompt is not lender._prompt or self._columns is not self._present:
            return False
        return self.keys is lender.keys

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
        if self._lender is not None and self.keys is self._lender.keys:
            return self._lender.slots
        end = self._prompt.past_length + self._prompt.length
        return Slots(self.keys.to(self._kind.device), end, not bool(self.valid.all()))

    def positions(self, embeddings: Any) -> Any:
        """The rotary embeddings of the tokens that are there; ``embeddings`` are those of the whole prompt, a tuple of
        tensors or one. None for layers that get none."""
        if embeddings is None:
            return None
        for given, gathered in self._positions:
            if given is embeddings:
                return gathered
        single = isinstance(embeddings, Tensor)
        found = gather_positions((embeddings,) if single else embeddings, self._columns + self._prompt.offset)
        gathered = found[0] if single else found
        self._positions.append((embeddings, gathered))
        return gathered

    def position_ids(self, given: Tensor) -> Tensor:
        """``(B, n)`` of the tokens that are there, from ``(B or 1, N)`` of the whole prompt."""
        index = (self._columns + self._prompt.offset).clamp_min(0).to(given.device)
        return given.expand(len(index), -1).gather(1, index)

    def rows(self, given: Tensor) -> Tensor:
        """``(B, n, D)`` of the tokens that are there, from ``(B, N, D)`` of the whole prompt."""
        index = self._columns.clamp_min(0).to(given.device)[:, :, None].expand(-1, -1, given.shape[2])
        return given.expand(len(index), -1, -1).gather(1, index)

    def mask(self, given: Any) -> Any:
        """The attention mask, in the form that the implementation takes.

        Args:
            given: the mask of the whole prompt, as the model made it for the layer: None, 2D, dense or a block mask.
        """
        for known, mask in self._masks:
            if known is given:
                return mask
        if self._lender is not None and self._like_lender:
            mask = self._lender.mask(given)
        elif self._prompt.resumed:
            mask = self._resumed()
        else:
            mask = self._cut(given) if masks.is_dense(given) else self._rebuilt()
        self._masks.append((given, mask))
        return mask

    @property
    def _buffers(self) -> int | None:
        """Keys that a static cache hands over. What exceeds the buffers of a sliding-window layer it hands over once,
        with the prefill."""
        return None if self._kind.buffers is None else max(self._kind.buffers, self.keys.shape[1])

    def _cut(self, given: Tensor) -> Tensor:
        """``(B, 1, n, P + n or buffers)`` from ``(B or 1, 1, N, kv)``."""
        device, before = self._kind.device, None
        if self._past is not None:
            before = masks.before(self._past.to(device), self._own.to(device), self._kind.window)
        keys = None
        if self._lender is not None:
            own = self.keys[:, 0 if self._past is None else self._past.shape[1] :]
            keys = torch.where(own >= 0, own - self._prompt.past_length, -1).to(device)
        return masks.shortened(given.to(device), self._columns.to(device), before, self._buffers, keys=keys)

    def _resumed(self) -> Any:
        """Made from the columns alone."""
        device, prompt, window = self._kind.device, self._prompt, self._kind.window
        columns, keys, of_queries, of_keys = self._columns.to(device), self.keys.to(device), None, None
        if prompt.groups is not None and not (prompt.within and window is None):
            groups = prompt.groups.to(device)
            of_queries, of_keys = groups[columns.clamp_min(0)], groups[keys.clamp_min(0)]
        if self._lender is not None:
            return masks.between(
                prompt.config, self._hidden, columns, keys, window, of_queries, of_keys, within=prompt.within
            )
        return masks.decoding(
            prompt.config,
            self._hidden,
            columns,
            self.padding_mask,
            window,
            prompt.length,
            groups=of_queries,
            within=prompt.within,
        )

    @property
    def _hidden(self) -> Tensor:
        """What ``transformers`` asks for a batch, a length, a dtype and a device alone."""
        return torch.empty(*self._columns.shape, 0, dtype=self._kind.dtype, device=self._kind.device)

    def _rebuilt(self) -> Any:
        """Made anew by ``transformers``, which leaves a window out where it does not know what came before, or from the
        columns alone where keys are of a lender."""
        if self._lender is not None:
            device = self._kind.device
            own, keys, window = self._own.to(device), self.keys.to(device), self._kind.window
            mask = masks.between(self._prompt.config, self._hidden, own, keys, window)
            return mask if self._buffers is None else masks.padded_to(mask, self._buffers)
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
