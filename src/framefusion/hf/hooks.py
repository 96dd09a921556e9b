"""The hooks of an attached reduction: which of its parts runs when.

A stage runs in a pre-hook of a decoder layer, on the output of the layer before. The published code reduces inside
a layer, between its attention and its MLP; the difference is one MLP per stage, and no layer code is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from framefusion.errors import StateError
from framefusion.hf import cache as caches
from framefusion.hf import (
    decode,
    encoder,
    generation,
    graphs,
    grids,
    methods,
    prefill,
    prefix,
    prefix_part,
    prefix_tail,
    recording,
    refusals,
    state,
    timing,
    tower,
)
from framefusion.hf.calls import cache_of
from framefusion.hf.decoder import Decoder, attention_of
from framefusion.hf.families import Call
from framefusion.reduction.settings import FrameFusion

_attached: WeakSet[nn.Module] = WeakSet()
"""Decoders with a reduction attached."""


def check_free(decoder: Decoder) -> None:
    """Refuse a model that has a reduction attached.

    Raises:
        RuntimeError: it has.
    """
    if decoder.module in _attached:
        raise StateError(f"this {decoder.name} has a reduction attached already; call detach() on its handle first.")


def install(
    decoder: Decoder, settings: FrameFusion, record: state.Record, clock: timing.Clock | None = None
) -> list[Callable[[], None]]:
    """Hook a model.

    Args:
        decoder: of the model.
        settings: what to reduce.
        record: of the prefills.
        clock: that is to run with them.

    Returns:
        the functions that undo it, to be called last one first.
    """
    undo: list[Callable[[], None]] = []
    try:
        # What came before a failure is in the list, and undone.
        undo.extend(_installed(decoder, settings, record, clock))
    except BaseException:
        methods.undo_all(undo)
        raise
    return undo


def _installed(
    decoder: Decoder, settings: FrameFusion, record: state.Record, clock: timing.Clock | None
) -> Iterator[Callable[[], None]]:
    hooks = Hooks(decoder, settings, record)
    yield partial(_attached.discard, decoder.module)
    _attached.add(decoder.module)
    if decoder.has_head:
        yield from generation.install(decoder.model, reducing=not settings.keeps_all)
    yield from grids.install(decoder.multimodal)
    if settings.relevance.of.encoder:
        yield from encoder.install(decoder.multimodal)
    if settings.tower is not None:
        yield from tower.install(decoder.multimodal, decoder.family, settings.tower, record.tower)
    yield decoder.multimodal.register_forward_pre_hook(hooks.enter_model, with_kwargs=True).remove
    yield decoder.multimodal.register_forward_hook(hooks.leave_model, always_call=True).remove
    yield decoder.module.register_forward_pre_hook(hooks.enter_decoder, with_kwargs=True).remove
    if decoder.cuts:
        yield decoder.module.register_forward_hook(hooks.leave_decoder).remove
    yield methods.replace(decoder.module, "forward", graphs.only_steps)
    if clock is not None:
        # Around all that is done to the encoder.
        yield from timing.install(decoder.model, clock)
    for index, layer in enumerate(decoder.layers):
        attention = attention_of(layer)
        if attention is not None:
            yield recording.install(attention)
        yield layer.register_forward_pre_hook(partial(hooks.before_layer, index), with_kwargs=True).remove
        if decoder.deepstack:
            yield layer.register_forward_hook(partial(hooks.after_layer, index)).remove


class Hooks:
    """What runs around the model, its decoder and every decoder layer.

    A compiled step of one token is traced through here, and must find nothing that changes between steps but what is
    on the cache: so it never asks for the state.
    """

    def __init__(self, decoder: Decoder, settings: FrameFusion, record: state.Record) -> None:
        self._decoder, self._settings, self._record = decoder, settings, record

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise StateError(recording.NO_COPIES)

    @graphs.inlined_only
    def enter_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the multimodal model."""
        ids = args[0] if args else kwargs.get("input_ids")
        tokens = kwargs.get("inputs_embeds") if ids is None else ids
        if tokens is None or tokens.shape[1] != 1:
            self._begin(args, kwargs)
        elif not torch.compiler.is_compiling():
            _end(self._record)

    @graphs.inlined_only
    def leave_model(self, module: nn.Module, args: Any, output: Any) -> None:
        """After the multimodal model, also where it failed."""
        if not torch.compiler.is_compiling():
            _end(self._record)

    @graphs.inlined_only
    def enter_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before the decoder."""
        hidden, cache = kwargs["inputs_embeds"], cache_of(kwargs)
        if hidden.shape[1] != 1:
            return self._enter_prefill(args, kwargs)
        if cache is not None and caches.layout_of(cache) is not None:
            if torch.compiler.is_compiling() or int(cache.get_seq_length()):
                refusals.rows(cache, len(hidden))
            else:
                caches.start(cache)
            if caches.prefix_of(cache) is not None:
                return args, self._behind(cache, hidden, kwargs)
        return None

    @graphs.inlined_only
    def leave_decoder(self, module: nn.Module, args: Any, output: Any) -> Any:
        """After a decoder that goes on with the last tokens alone, which a prefill keeps it from: its head counts on no
        more of them."""
        hidden = output[0]
        if hidden.shape[1] == 1:
            return None
        forward = state.current().forward
        if forward is not None and forward.record is self._record and forward.last:
            output["last_hidden_state"] = hidden[:, -forward.last :]
        return output

    def before_layer(self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before a decoder layer."""
        given, cache = args[0] if args else kwargs["hidden_states"], cache_of(kwargs)
        hidden = self._decoder.family.tokens_of(given)
        running = self._prefill(hidden)
        if running is not None:
            kwargs = self._decoder.named(args, kwargs)
            changed = running.before_layer(index, hidden, kwargs)
            args = args[:1]
        elif cache is not None and caches.slots_of(cache, index) is not None:
            mask = decode.mask_of(self._decoder, index, hidden, cache, kwargs.get("attention_mask"))
            changed = hidden, {**kwargs, "attention_mask": mask}
        else:
            changed = None
        caches.announce(cache, index)
        if changed is None:
            return None
        tokens, kwargs = changed
        hidden = given if tokens is hidden else self._decoder.family.hidden_of(tokens, given)
        return ((hidden, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": hidden})

    def after_layer(self, index: int, module: nn.Module, args: Any, output: Any) -> Any:
        """After a decoder layer, in a decoder with DeepStack."""
        hidden = output[0] if isinstance(output, tuple) else output
        running = self._prefill(hidden)
        changed = None if running is None else running.after_layer(index, hidden)
        return (changed, *output[1:]) if changed is not None and isinstance(output, tuple) else changed

    def _prefill(self, hidden: Tensor) -> prefill.Prefill | None:
        """The prefill of this model under way, if the layer that runs on ``hidden`` is part of one."""
        if hidden.shape[1] == 1 and torch.compiler.is_compiling():
            return None
        forward = state.current().forward
        return forward.prefill if forward is not None and forward.record is self._record else None

    @torch.compiler.disable
    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        state.begin(state.Forward(self._record, self._decoder.arguments(args, kwargs)))
        encoder.forget()

    @torch.compiler.disable
    def _enter_prefill(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden, cache = kwargs["inputs_embeds"], cache_of(kwargs)
        forward, keeps_all = state.current().forward, self._settings.keeps_all
        if forward is None and keeps_all:
            return None
        if forward is None or forward.record is not self._record:
            raise refusals.direct_call(self._decoder)
        if caches.is_paged(cache):
            return None if keeps_all else refusals.batching()
        call = Call(forward.arguments.get("input_ids"), kwargs.get("position_ids"), forward.arguments)
        extension = state.current().extension
        if extension is not None and extension.owner is self._record:
            forward.prefill, kwargs = prefix_part.start_part(self._decoder, self._settings, extension, call, kwargs)
            return args, self._whole(forward, kwargs)
        past_length = 0 if cache is None else int(cache.get_seq_length())
        if cache is not None and past_length:
            refusals.rows(cache, len(hidden))
        elif cache is not None:
            caches.start(cache)
        held = caches.prefix_of(cache)
        if held is not None:
            refusals.behind_prefix(call)
            kwargs = self._behind(cache, hidden, kwargs)
            if past_length == held.length:
                forward.prefill = self._start_tail(held, call, hidden)
            return args, self._whole(forward, kwargs)
        if past_length and not call.has_visual:
            return args, kwargs if caches.layout_of(cache) is None else self._whole(forward, kwargs)
        forward.prefill = self._start(call, hidden, kwargs, past_length)
        if forward.prefill.reducing:
            kwargs = self._whole(forward, kwargs)
        if forward.prefill.deepstack is not None:
            kwargs = {**kwargs, "visual_pos_masks": None, "deepstack_visual_embeds": None}
        return args, kwargs

    def _whole(self, forward: state.Forward, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a decoder that hands every token to all of its layers, whatever its head needs of them."""
        if not self._decoder.cuts:
            return kwargs
        last = kwargs.get("logits_to_keep")
        forward.last = last if isinstance(last, int) else 0
        return {**kwargs, "logits_to_keep": 0}

    def _behind(self, cache: Any, hidden: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a decoder that goes on behind a prefix, at the positions that follow it."""
        layout, first, count = caches.layout_of(cache), int(cache.get_seq_length()), hidden.shape[1]
        assert layout is not None
        assert layout.pads is not None
        begins = first == layout.prefix.length
        if begins and count == 1:
            raise refusals.short_tail()
        whole = begins and layout.prefix.fork < len(self._decoder.layers)
        return {**kwargs, "position_ids": prefix_tail.positions_for(layout.prefix, layout.pads, first, count, whole)}

    def _start_tail(self, held: prefix.Prefix, call: Call, hidden: Tensor) -> prefix_tail.TailPrefill:
        """Start the prefill of the text behind a prefix and note it as the latest."""
        self._record.note(None)
        generating = state.generation_of(self._decoder.model)
        drafts = 0 if generating is None else generating.drafts
        given = call.arguments.get("attention_mask")
        valid = torch.ones(hidden.shape[:2], dtype=torch.bool)
        if isinstance(given, Tensor) and given.ndim == 2:
            valid = given[:, -hidden.shape[1] :].cpu().bool()
        ids = None if call.input_ids is None else call.input_ids[:, -hidden.shape[1] :]
        started = prefix_tail.start_tail(self._decoder, self._settings, held, hidden, valid, drafts, ids)
        self._record.note(started.reduction)
        return started

    def _start(self, call: Call, hidden: Tensor, kwargs: dict[str, Any], past_length: int) -> prefill.Prefill:
        """Start a prefill and note it as the latest."""
        generating = state.generation_of(self._decoder.model)
        aside = generating is not None and generating.aside and not call.has_visual
        if not aside:
            self._record.note(None)
        if call.input_ids is None and not self._settings.keeps_all:
            raise refusals.missing_ids()
        drafts = 0 if generating is None else generating.drafts
        started = prefill.start(
            self._decoder, self._settings, call, hidden, kwargs, past_length=past_length, drafts=drafts
        )
        if not aside:
            self._record.note(started.reduction)
        return started


@torch.compiler.disable
def _end(record: state.Record) -> None:
    state.end(record)
