"""A prefill: where its visual tokens are, the stages before its layers, and what its layers are called with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from framefusion.hf import cache as caches
from framefusion.hf import encoder, masks, recording, refusals
from framefusion.hf.calls import cache_of
from framefusion.hf.decoder import Decoder, attends, attention_of, window_of
from framefusion.hf.deepstack import DeepStack
from framefusion.hf.families import Call
from framefusion.hf.inputs import LayerInputs, LayerKind, Prompt
from framefusion.reduction.layout import VisualLayout
from framefusion.reduction.reducer import Reduction
from framefusion.reduction.settings import FrameFusion

Changed = tuple[Tensor, dict[str, Any]]
"""The hidden states and keyword arguments that a layer runs with in the place of its own."""


class Prefill:
    """One prefill under way, between the decoder's first layer and its last.

    Args:
        decoder: that runs.
        reduction: asked before every layer.
        prompt: what its layers have in common.
        deepstack: the visual features to add after the first layers, or None where the model adds them itself.
        reducing: whether the settings may drop anything here.
        last: tokens that are wanted in the end; the others are left out once no layer needs them. 0 for all.
    """

    def __init__(
        self,
        decoder: Decoder,
        reduction: Reduction,
        prompt: Prompt,
        deepstack: DeepStack | None,
        reducing: bool = True,
        last: int = 0,
    ) -> None:
        self.reduction, self.deepstack, self.reducing = reduction, deepstack, reducing
        self._decoder, self._prompt, self._last = decoder, prompt, last
        self._queries: int | None = None
        """How many of the last tokens the layers still run on; None for all."""
        self._lent: dict[int, LayerInputs] = {}
        """By the layer that lends its keys and values to later ones."""
        self._recorder: recording.Recorder | None = None
        self._keys = reduction.columns
        """``(B, k)`` int64: the column of the prompt of each key of the layer that was last recorded, -1 for none."""
        self._inputs: dict[Any, LayerInputs] = {}
        """By the stages so far, which made the present sequence, the prompt and the kind of layer."""

    def before_layer(self, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> Changed | None:
        """Run the stage before a layer, and shorten what the layer is called with.

        Args:
            index: of the layer.
            hidden: ``(B, n, D)``.
            kwargs: the other arguments of the layer.

        Returns:
            ``(B, n', D)`` hidden states and the arguments beside them; None when all stays as it was.
        """
        hidden = self._alone(index, self._staged(index, hidden))
        cache = cache_of(kwargs)
        as_given = self._as_given(index, cache)
        if not attends(self._decoder.layers[index]):
            return None if as_given else self._recurrent_layer(index, hidden, kwargs)
        inputs = self._inputs_of(index, self._kind(index, cache, hidden))
        if self._lends(index):
            self._lent[index] = inputs
        self._record(index, inputs)
        if as_given:
            return None
        lender = self._decoder.lenders[index]
        if cache is not None and lender == index:
            caches.remember(cache, index, inputs.slots)
        elif cache is not None:
            caches.remember_borrowed(cache, index, lender, inputs.slots)
        return hidden, {
            **kwargs,
            **_rotary(inputs, kwargs),
            "position_ids": inputs.position_ids(kwargs["position_ids"]) if self._decoder.takes_positions else None,
            "attention_mask": inputs.mask(kwargs.get("attention_mask")),
            **self._per_layer(index, inputs, kwargs),
            **self._token_arguments(index, kwargs),
        }

    def _alone(self, index: int, hidden: Tensor) -> Tensor:
        """The last tokens alone, from the layer on where nothing needs the others: none computes keys and values, and
        no stage comes."""
        if self._queries is None and self._last and index >= self._decoder.borrowing and self.reduction.over(index):
            self._queries = min(self._last, hidden.shape[1])
            hidden = hidden[:, -self._queries :]
        return hidden

    def _per_layer(self, index: int, inputs: LayerInputs, kwargs: dict[str, Any]) -> dict[str, Tensor]:
        """A layer's own inputs of the tokens that are there; a merged token has those of the one it merged into."""
        names = self._decoder.family.per_layer
        given = None if names is None else kwargs.get(names[1])
        return {} if names is None or given is None else {names[1]: inputs.rows(self._own_rows(index, given))}

    def _own_rows(self, index: int, given: Tensor) -> Tensor:
        """``(B, N, D')`` of all columns of the sequence, of what the model hands to a layer."""
        return given

    def _lends(self, index: int) -> bool:
        """Whether later layers attend to the keys and values of a layer."""
        return index in self._decoder.lenders[self._decoder.borrowing :]

    def after_layer(self, index: int, hidden: Tensor) -> Tensor | None:
        """``(B, n, D)`` after a layer with its visual features added; None where the model does so."""
        if self.deepstack is None:
            return None
        return self.deepstack.add(index, hidden, self.reduction.columns, self.reduction.merged_into)

    def _staged(self, index: int, hidden: Tensor) -> Tensor:
        """``(B, n', D)`` behind the stage before a layer."""
        return self.reduction.before_layer(index, hidden, self._received(index))

    def _as_given(self, index: int, cache: Any) -> bool:
        """Whether a layer runs on what the model hands to it."""
        attending = attends(self._decoder.layers[index])
        held = None if cache is None or not attending else caches.slots_of(cache, index)
        # What later layers may see less of is counted from the layer on that lends it.
        shared = self.reducing and (self._lends(index) or self._decoder.lenders[index] != index)
        return not self.reduction.reduced and held is None and not shared

    def _sequence(self, index: int) -> tuple[Prompt, Tensor]:
        """The prompt that a layer runs on, and ``(B, n)`` int64: its column at each slot, -1 padding."""
        return self._prompt, self.reduction.columns

    def _recurrent_layer(self, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> Changed:
        """A layer of linear attention, whose state takes in the tokens that are there, one after the other, or one that
        maps each token for itself."""
        if self._sequence(index)[0].past_length and self.reduction.padded:
            raise refusals.padded_states()
        # The state has no slots, so the cache makes no difference.
        inputs = self._inputs_of(index, LayerKind(None, 0, None, None, hidden.dtype, hidden.device))
        return hidden, {
            **kwargs,
            **_rotary(inputs, kwargs),
            "position_ids": None,
            "attention_mask": inputs.padding_mask,
            **self._token_arguments(index, kwargs),
        }

    def _token_arguments(self, index: int, kwargs: dict[str, Any]) -> dict[str, Tensor]:
        """``(B, n)`` each: the arguments that a layer gets by token, see :meth:`Family.token_arguments`."""
        prompt, columns = self._sequence(index)
        told = _told(self._decoder, prompt.ids)
        return {
            name: value.gather(1, columns.clamp_min(0).to(value.device)).to(kwargs[name])
            for name, value in told.items()
            if kwargs.get(name) is not None
        }

    def _kind(self, index: int, cache: Any, hidden: Tensor) -> LayerKind:
        lender = self._decoder.lenders[index]
        return LayerKind(
            past=None if cache is None else caches.slots_of(cache, index),
            kv_length=caches.kv_length(cache, index) if self._sequence(index)[0].past_length and lender == index else 0,
            window=window_of(self._decoder.layers[index]),
            buffers=cache.layers[lender].max_cache_len if cache is not None and caches.is_static(cache) else None,
            dtype=hidden.dtype,
            device=hidden.device,
        )

    def _inputs_of(self, index: int, kind: LayerKind) -> LayerInputs:
        prompt, columns = self._sequence(index)
        lender = self._lent.get(self._decoder.lenders[index])
        key = len(self.reduction.stages), prompt, kind, lender, self._queries
        if key not in self._inputs:
            self._inputs[key] = LayerInputs(prompt, columns, kind, lender, self._queries)
        return self._inputs[key]

    def _received(self, index: int) -> Tensor | None:
        """``(B, n)``: the attention that each slot received in the layer before, where it was recorded."""
        recorder, self._recorder = self._recorder, None
        if recorder is None:
            return None
        if recorder.received is None:
            raise refusals.unrecorded_attention(index - 1)
        return self._by_slot(recorder.received) if recorder.whole else recorder.received

    def _by_slot(self, received: Tensor) -> Tensor:
        """``(B, n)``: what each slot that is there received, of all keys of a layer ``(B, k)``."""
        # (B, N): by column, because keys may be more or fewer than those that are there.
        keys = self._keys.to(received.device)
        by_column = received.new_zeros(len(keys), self.reduction.length)
        by_column.scatter_add_(1, keys.clamp_min(0), received.masked_fill(keys < 0, 0))
        return by_column.gather(1, self.reduction.columns.clamp_min(0).to(received.device))

    def _record(self, index: int, inputs: LayerInputs) -> None:
        """Have the attention of a layer recorded where a stage up to the next one that attends goes by it."""
        if not any(map(self.reduction.wants_attention, self._decoder.served(index))):
            return
        self._recorder = self._recorder_of(index, inputs)
        recording.active.set(self._recorder)

    def _recorder_of(self, index: int, inputs: LayerInputs) -> recording.Recorder:
        self._keys = (inputs.keys - self._prompt.past_length).clamp_min(-1)
        return recording.Recorder(
            attention_of(self._decoder.layers[index]),
            self.reduction.query_rows(),
            inputs.valid,
            per_viewer=self.reduction.settings.relevance.of.per_viewer,
            whole=self._decoder.lenders[index] != index,
        )


def start(
    decoder: Decoder,
    settings: FrameFusion,
    call: Call,
    hidden: Tensor,
    kwargs: dict[str, Any],
    *,
    past_length: int,
    drafts: int,
) -> Prefill:
    """Find the visual tokens of a call, refuse what cannot be reduced, and plan the stages.

    Args:
        decoder: that is about to run.
        settings: of the reduction.
        call: what the multimodal model was called with.
        hidden: ``(B, N, D)``, the embeddings of the prompt.
        kwargs: the arguments of the decoder.
        past_length: columns of the conversation that its cache holds.
        drafts: columns at the end that are no part of the prompt.

    Raises:
        RuntimeError: the model is in training mode.
        ValueError: the prompt, its mask or its cache cannot be reduced.
    """
    cache = cache_of(kwargs)
    layouts, seen = layouts_of(decoder, settings, call, len(hidden))
    reducing = any(map(len, layouts)) and not settings.keeps_all
    valid = _valid(kwargs.get("attention_mask"), hidden, cache, reducing=reducing)
    if reducing:
        refusals.prefill(settings, decoder, layouts, valid, call)
        refusals.too_long(decoder, past_length + hidden.shape[1])
    if cache is not None and (reducing or (past_length and caches.layout_of(cache) is not None)):
        check_cache(decoder, settings, cache, filled=past_length > 0)
    reduction = Reduction(
        settings,
        layouts,
        valid,
        len(decoder.layers),
        decoder.first,
        seen=seen,
        drafts=drafts,
        encoder=encoder.received(call, layouts) if reducing and settings.relevance.of.encoder else None,
    )
    deepstack = None
    if reducing and kwargs.get("deepstack_visual_embeds") is not None:
        deepstack = DeepStack(kwargs["visual_pos_masks"], kwargs["deepstack_visual_embeds"])
    past_valid = _past_valid(call, hidden, past_length) if past_length else None
    ids = None if call.input_ids is None else call.input_ids[:, -hidden.shape[1] :]
    prompt = Prompt(decoder.module.config, hidden.shape[1], past_length, past_valid, ids=ids)
    last = _wanted(decoder, kwargs) if reducing else 0
    return Prefill(decoder, reduction, prompt, deepstack, reducing, last)


def _wanted(decoder: Decoder, kwargs: dict[str, Any]) -> int:
    """Tokens that the head wants of a decoder which may leave the others out; 0 for all."""
    whole = ("output_hidden_states", "output_attentions", "output_router_logits")
    last, config = kwargs.get("logits_to_keep"), decoder.module.config
    if not decoder.cuts or not isinstance(last, int) or config._attn_implementation not in masks.DENSE:
        return 0
    return 0 if any(kwargs.get(name) or getattr(config, name, False) for name in whole) else last


def _rotary(inputs: LayerInputs, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary embeddings of the tokens that are there; nothing in a decoder without."""
    name = "position_embeddings"
    return {name: inputs.positions(kwargs[name])} if name in kwargs else {}


def _told(decoder: Decoder, ids: Tensor | None) -> Mapping[str, Tensor]:
    return {} if ids is None else decoder.family.token_arguments(decoder.multimodal, ids)


def check_cache(decoder: Decoder, settings: FrameFusion, cache: Any, *, filled: bool) -> None:
    """Refuse a cache that a prefill with these settings cannot fill."""
    before_first = settings.reduces_before_first(len(decoder.layers))
    refusals.cache(cache, filled=filled, before_first=before_first)
    if caches.is_static(cache):
        refusals.static_cache(decoder)
        refusals.too_long(decoder, max(getattr(layer, "max_cache_len", 0) for layer in cache.layers))


def layouts_of(
    decoder: Decoder, settings: FrameFusion, call: Call, batch: int
) -> tuple[list[VisualLayout], Sequence[Tensor] | None]:
    """The visual tokens of each sample that may be reduced, and the columns of all placeholders.

    A newline at the end of a video has a placeholder but shows nothing: no token to reduce, and no text. So has what
    closes a video, where its position belongs to it.
    """
    if call.input_ids is None or not call.has_visual:
        return [VisualLayout.of([])] * batch, None
    layouts, closing = decoder.family.layouts(decoder.multimodal, call), torch.arange(decoder.family.closing)
    seen = []
    for row, layout in zip(call.input_ids.cpu(), layouts, strict=True):
        filled = torch.isin(row, row[layout.columns]).nonzero().squeeze(-1)
        seen.append(torch.cat([filled, filled[-1:] + 1 + closing]) if len(filled) else filled)
    return layouts if settings.images else [layout.only("video") for layout in layouts], seen


def _valid(mask: Any, hidden: Tensor, cache: Any, *, reducing: bool) -> Tensor:
    """``(B, N)`` bool on the CPU: which columns of the prompt are no padding."""
    if not reducing and isinstance(mask, dict):
        return torch.ones(hidden.shape[:2], dtype=torch.bool)
    static = cache is not None and caches.is_static(cache)
    return masks.visible_columns(mask, *hidden.shape[:2], static=static)


def _past_valid(call: Call, hidden: Tensor, past_length: int) -> Tensor:
    """``(B, past_length)`` bool on the CPU: which columns before the prompt are no padding, as the caller says: the
    masks of the decoder may be those of shortened layers."""
    given = call.arguments.get("attention_mask")
    return masks.visible_before(given, len(hidden), hidden.shape[1], past_length)
