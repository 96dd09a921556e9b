"""The one way in: attach a reduction to a Hugging Face video LLM. The hooks live here and nowhere else.

A stage runs in a pre-hook of a decoder layer, on the output of the layer before. The published code reduces inside
a layer, between its attention and its MLP; the difference is one MLP per stage, and no layer code is copied.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import fields
from functools import partial
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from framefusion.errors import ArgumentError, ArgumentTypeError, StateError
from framefusion.hf import cache as caches
from framefusion.hf import encoder, generation, graphs, masks, recording, refusals
from framefusion.hf.deepstack import DeepStack
from framefusion.hf.families import Call, UnsupportedModelError, find, unwrapped
from framefusion.hf.fitted import fitted_settings
from framefusion.hf.summary import DecoderSize, Summary, attends, first_after_attention, summarize, window_of
from framefusion.reduction.layout import VisualLayout
from framefusion.reduction.reducer import Reduction, Stage
from framefusion.reduction.settings import FROM_ENCODER, FrameFusion

_DEFAULTS = FrameFusion()

_attached: WeakSet[nn.Module] = WeakSet()
"""Decoders with a reduction attached; a run itself is kept alive by its hooks."""


def attach(model: nn.Module, settings: FrameFusion | None = None) -> Run:
    """Reduce the visual tokens of every prefill of ``model`` until detached.

    Only hooks are added: weights, ``state_dict`` and config stay as they are, and after detaching, or with
    ``keep=1.0``, the logits are bit-identical to those of the plain model.

    Args:
        model: a video LLM of a supported family (``framefusion models`` lists them), with or without its
            language-model head.
        settings: what to reduce; default ``FrameFusion()``.

    Returns:
        A handle. As a context manager it always detaches; for long-lived use keep it and call ``detach()``::

            with framefusion.attach(model, FrameFusion(keep=0.2)) as run:
                model.generate(**inputs)
            print(run.summary())

    Raises:
        TypeError: an argument is of the wrong kind.
        UnsupportedModelError: the family is not supported; lists those that are.
        ValueError: the settings cannot be followed by this model, e.g. an unreachable cost; or ``stages="auto"`` and
            what was probed about it cannot be read.
        RuntimeError: the model has a reduction attached already.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"model must be a loaded Hugging Face model, got {type(model).__name__}.")
    settings = FrameFusion() if settings is None else settings
    if not isinstance(settings, FrameFusion):
        raise ArgumentTypeError(f"settings must be a FrameFusion, got {type(settings).__name__}.")
    return Run(model, settings)


class Run:
    """A reduction attached to a model; made by :func:`attach`.

    Its ``settings`` are those of :func:`attach`, with stages in the place of ``"auto"``; ``stages_from`` tells where
    the stages of a cost come from: ``"default"``, ``"given"`` or ``"probed"``, None without.

    What it tells is about the latest prefill of the calling thread (or task, see :mod:`contextvars`); where that ran
    none, as with a streamer beside ``generate()`` in a thread of its own, about the latest prefill of all.
    """

    def __init__(self, model: Any, settings: FrameFusion) -> None:
        model = unwrapped(model)
        self._name = type(model).__name__
        self._family = find(model)
        self._multimodal: Any = model.base_model
        self._decoder: Any = self._multimodal.get_decoder()
        if not hasattr(self._decoder, "layers"):
            raise UnsupportedModelError(
                f"{type(model).__name__} keeps its decoder elsewhere in this release of transformers; use a later one."
            )
        self._layers: list[Any] = list(self._decoder.layers)
        self._signature = inspect.signature(type(self._multimodal).forward)
        if self._decoder in _attached:
            raise StateError(
                f"this {type(model).__name__} has a reduction attached already; call detach() on its handle first."
            )
        self._attending = [index for index, layer in enumerate(self._layers) if attends(layer)]
        self._first = first_after_attention(self._layers)
        self.settings, self.stages_from = fitted_settings(model, settings, len(self._layers), self._first)
        self.settings.check(len(self._layers), self._first)
        self._size = DecoderSize.of(self._layers, self._decoder.config, self._decoder.dtype)
        self._reduction: Reduction | None = None
        self._generating: Any = None if model is self._multimodal else model
        self._undo: list[Callable[[], None]] = []
        try:
            self._hook(model)
        except BaseException:
            self.detach()
            raise

    def __repr__(self) -> str:
        changed = [
            f"{field.name}={getattr(self.settings, field.name)!r}"
            for field in fields(FrameFusion)
            if getattr(self.settings, field.name) not in (None, getattr(_DEFAULTS, field.name))
        ]
        try:
            present = self._latest().visual_per_layer
            latest = f"latest prefill kept {present[-1]} of {sum(map(len, self._latest().layouts))} visual tokens"
        except StateError:
            latest = "no prefill to tell of"
        where = "attached to" if self.attached else "detached from"
        return f"<Run of FrameFusion({', '.join(changed)}), {where} {self._name}, {latest}>"

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise StateError(recording.NO_COPIES)

    def detach(self) -> None:
        """Remove every hook. Calling it again does nothing.

        A cache filled while attached can only be continued while attached.
        """
        if not self._undo:
            return
        while self._undo:
            self._undo.pop()()
        _leave(self)
        # What the run tells stays; the model must not live on with it.
        self._multimodal = self._decoder = self._generating = None
        self._layers = []

    @property
    def attached(self) -> bool:
        """Whether the hooks are in place."""
        return bool(self._undo)

    @property
    def stages(self) -> list[Stage]:
        """The stages of the latest prefill that reduced something, in order."""
        return list(self._latest().stages)

    @property
    def layout(self) -> list[VisualLayout]:
        """The visual tokens of each sample of the latest prefill, on the CPU."""
        return [layout.to(torch.device("cpu")) for layout in self._latest().layouts]

    @property
    def segments(self) -> list[Tensor]:
        """Per sample of the latest prefill, int64 on the CPU: the segment of each visual token, in the order of
        the layout; ids go on across the videos and images of a sample."""
        return [ids.cpu() for ids in self._latest().segments or []]

    @property
    def tokens_per_layer(self) -> list[int]:
        """Visual tokens present in each decoder layer of the latest prefill, over the whole batch."""
        return list(self._latest().visual_per_layer)

    def summary(self) -> Summary:
        """What the latest prefill kept and saved; formulas at :class:`~framefusion.hf.summary.DecoderSize`.

        Raises:
            RuntimeError: no prefill has run yet.
        """
        reduction = self._latest()
        return summarize(
            self._size,
            reduction.original_lengths,
            sum(len(layout) for layout in reduction.layouts),
            reduction.visual_per_layer,
            reduction.tokens_per_layer,
            sum(stage.milliseconds for stage in reduction.stages),
            None if self.stages_from is None else self.settings.steps,
            self.stages_from,
        )

    def _tell(self, reduction: Reduction | None) -> None:
        """Note of which prefill the run tells from now on; None while there is none."""
        self._reduction = reduction
        others = {run: told for run, told in (_records.get() or {}).items() if run is not self}
        _records.set(WeakKeyDictionary(others if reduction is None else {**others, self: reduction}))

    def _latest(self) -> Reduction:
        records = _records.get()
        reduction = self._reduction if records is None else records.get(self, self._reduction)
        if reduction is None:
            raise StateError("no prefill has run yet: call the model or model.generate() while attached.")
        if not reduction.finished:
            raise StateError("the latest prefill did not reach its end, so there is nothing to tell about it.")
        return reduction

    def _hook(self, model: Any) -> None:
        def keep(handle: Any) -> None:
            self._undo.append(handle.remove)

        _attached.add(self._decoder)
        self._undo.append(partial(_attached.discard, self._decoder))
        if model is not self._multimodal:
            self._undo.extend(generation.install(model, reducing=not self.settings.keeps_all))
        if self.settings.relevance in FROM_ENCODER:
            self._undo.extend(encoder.install(self._multimodal))
        keep(self._multimodal.register_forward_pre_hook(self._enter_call, with_kwargs=True))
        keep(self._multimodal.register_forward_hook(self._leave_call, always_call=True))
        keep(self._decoder.register_forward_pre_hook(self._enter_decoder, with_kwargs=True))
        self._undo.append(generation.replace(self._decoder, "forward", graphs.only_steps))
        for index, layer in enumerate(self._layers):
            if attends(layer):
                self._undo.append(recording.install(layer.self_attn))
            keep(layer.register_forward_pre_hook(partial(self._before_layer, index), with_kwargs=True))
            if "deepstack_visual_embeds" in inspect.signature(type(self._decoder).forward).parameters:
                keep(layer.register_forward_hook(partial(self._after_layer, index)))

    @graphs.inlined_only
    def _enter_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = args[0] if args else kwargs.get("input_ids")
        tokens = kwargs.get("inputs_embeds") if ids is None else ids
        if tokens is not None and tokens.shape[1] == 1:
            # A decoded token needs nothing but what is on the cache; a compiled step must find no more here.
            if not torch.compiler.is_compiling():
                _leave(self)
            return
        self._begin(module, args, kwargs)

    @torch.compiler.disable
    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        bound = self._signature.bind_partial(module, *args, **kwargs).arguments
        more = bound.pop("kwargs", {})
        _current.set(_Forward(self, {**bound, **more}))
        recording.active.set(None)
        encoder.forget()

    @graphs.inlined_only
    def _leave_call(self, module: nn.Module, args: Any, output: Any) -> None:
        if not torch.compiler.is_compiling():
            _leave(self)

    @graphs.inlined_only
    def _enter_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden, cache = kwargs["inputs_embeds"], caches.of_call(kwargs)
        if hidden.shape[1] == 1:
            if cache is not None and caches.layout_of(cache) is not None:
                if torch.compiler.is_compiling() or int(cache.get_seq_length()):
                    caches.check_rows(cache, len(hidden))
                else:
                    caches.start(cache)
            return None
        return self._enter_prefill(args, kwargs)

    @torch.compiler.disable
    def _enter_prefill(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden, cache = kwargs["inputs_embeds"], caches.of_call(kwargs)
        forward = _current.get()
        if forward is None and self.settings.keeps_all:
            return None
        if forward is None or forward.run is not self:
            raise StateError(
                f"the language model of {type(self._multimodal).__name__} was called directly while a reduction is "
                "attached, which hides where the visual tokens are. Call the whole model, or detach first."
            )
        if caches.is_paged(cache):
            return None if self.settings.keeps_all else refusals.batching()
        filled = 0 if cache is None else int(cache.get_seq_length())
        if cache is not None and filled:
            caches.check_rows(cache, len(hidden))
        elif cache is not None:
            caches.start(cache)
        if filled and not Call(forward.arguments.get("input_ids"), None, forward.arguments).has_visual:
            return None
        return self._start_prefill(forward, hidden, cache, filled, args, kwargs)

    def _start_prefill(
        self,
        forward: _Forward,
        hidden: Tensor,
        cache: Any,
        filled: int,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        call = Call(forward.arguments.get("input_ids"), kwargs.get("position_ids"), forward.arguments)
        generating = None if self._generating is None else generation.current(self._generating)
        aside = generating is not None and generating.aside and not call.has_visual
        if not aside:
            self._tell(None)
        if call.input_ids is None and not self.settings.keeps_all:
            raise ArgumentError(
                "input_ids is missing: framefusion finds the visual tokens by their placeholders. Pass input_ids "
                "and the video instead of inputs_embeds, or detach first."
            )
        if call.input_ids is None or not call.has_visual:
            layouts, seen = [VisualLayout.of([])] * len(hidden), None
        else:
            layouts = self._family.layouts(self._multimodal, call)
            seen = [layout.columns for layout in layouts]
            if not self.settings.images:
                layouts = [layout.only("video") for layout in layouts]
        mask = kwargs.get("attention_mask")
        reducing = any(map(len, layouts)) and not self.settings.keeps_all
        valid = torch.ones(hidden.shape[:2], dtype=torch.bool)
        if reducing or not isinstance(mask, dict):
            static = cache is not None and caches.is_static(cache)
            valid = masks.visible_columns(mask, *hidden.shape[:2], static=static)
        if reducing:
            refusals.prefill(self.settings, self._decoder, self._layers, layouts, valid, call)
        if cache is not None and (reducing or (filled and caches.layout_of(cache) is not None)):
            before_first = self.settings.reduces_before_first(len(self._layers))
            caches.check(cache, filled=filled > 0, before_first=before_first)
            if caches.is_static(cache):
                refusals.static_cache(self._decoder)
        drafts = 0 if generating is None else generating.drafts
        forward.reduction = Reduction(
            self.settings,
            layouts,
            valid,
            len(self._layers),
            self._first,
            seen=seen,
            drafts=drafts,
            encoder=encoder.received(call, layouts) if reducing and self.settings.relevance in FROM_ENCODER else None,
        )
        if not aside:
            self._tell(forward.reduction)
        forward.filled = filled
        if filled:
            # The masks of the decoder may be those of shortened layers.
            given = forward.arguments.get("attention_mask")
            forward.valid_before = masks.visible_before(given, len(hidden), hidden.shape[1], filled)
        if reducing and kwargs.get("deepstack_visual_embeds") is not None:
            forward.deepstack = DeepStack(kwargs["visual_pos_masks"], kwargs["deepstack_visual_embeds"])
            return args, {**kwargs, "visual_pos_masks": None, "deepstack_visual_embeds": None}
        return None

    def _before_layer(self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        compiled_step = hidden.shape[1] == 1 and torch.compiler.is_compiling()
        forward = None if compiled_step else _current.get()
        if forward is not None and forward.run is self and forward.reduction is not None:
            changed = self._prefill_layer(index, forward, forward.reduction, hidden, kwargs)
        else:
            changed = self._decode_layer(index, hidden, caches.of_call(kwargs), kwargs)
        caches.announce(caches.of_call(kwargs), index)
        if changed is None:
            return None
        hidden, kwargs = changed
        return ((hidden, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": hidden})

    def _after_layer(self, index: int, module: nn.Module, args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        compiled_step = hidden.shape[1] == 1 and torch.compiler.is_compiling()
        forward = None if compiled_step else _current.get()
        if forward is None or forward.run is not self or forward.reduction is None or forward.deepstack is None:
            return None
        reduction = forward.reduction
        hidden = forward.deepstack.add(index, hidden, reduction.columns, reduction.merged_into)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def _prefill_layer(
        self, index: int, forward: _Forward, reduction: Reduction, hidden: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]] | None:
        cache, layer = caches.of_call(kwargs), self._layers[index]
        recorder, forward.recorder = forward.recorder, None
        if recorder is not None and recorder.received is None:
            raise StateError(
                f"the attention of layer {index - 1} could not be recorded: its module does not take its attention "
                "function from the config. Use relevance='none', or an unpatched attention module."
            )
        hidden = reduction.before_layer(index, hidden, None if recorder is None else recorder.received)
        columns, batch = reduction.columns, len(reduction.columns)
        if not attends(layer):
            return self._recurrent_layer(forward, reduction, hidden, kwargs) if reduction.reduced else None
        past = None
        if forward.filled and forward.valid_before is not None:
            past = caches.columns_held(cache, index, batch, torch.device("cpu"))
            seen = (past >= 0) & forward.valid_before.gather(1, past.clamp_min(0))
            past = torch.where(seen, past, -1)
        if any(map(reduction.wants_attention, self._served(index))):
            held = columns if past is None else torch.cat([past, columns], dim=1)
            forward.recorder = recording.Recorder(
                layer.self_attn,
                reduction.query_rows(),
                held >= 0,
                per_viewer=self.settings.relevance == "all-viewers",
            )
            recording.active.set(forward.recorder)
        known = None if cache is None else caches.layout_of(cache)
        if not reduction.reduced and (known is None or index not in known.layers):
            return None
        if cache is not None:
            total = forward.filled + reduction.length

            def fill(_: None, columns: Tensor) -> caches.Slots:
                slots = torch.where(columns >= 0, columns + forward.filled, -1)
                slots = slots if past is None else torch.cat([past, slots], dim=1)
                return caches.Slots(slots.to(hidden.device), total, bool((slots < 0).any()))

            caches.remember(cache, index, forward.shared(fill, None, columns, past, hidden.device))
        return hidden, {
            **kwargs,
            "position_embeddings": forward.shared(_gather_positions, kwargs["position_embeddings"], columns),
            "position_ids": None,
            "attention_mask": self._prefill_mask(index, forward, hidden, columns, past, kwargs),
        }

    def _served(self, index: int) -> range:
        """The layers before which the latest attention is that of layer ``index``."""
        later = [layer for layer in self._attending if layer > index]
        return range(index + 1, later[0] + 1 if later else len(self._layers))

    def _recurrent_layer(
        self, forward: _Forward, reduction: Reduction, hidden: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]]:
        """A layer of linear attention: its state takes in the tokens that are there, one after the other."""
        if forward.filled and reduction.padded:
            raise ArgumentError(
                "a video or image came in a later turn of several samples, which keep different numbers of tokens; the "
                "padding would enter the states of the linear-attention layers. Continue each sample on a cache of its "
                "own, or use keep and videos of one size."
            )

        def real(_: Any, columns: Tensor) -> Tensor | None:
            held = columns >= 0
            return None if bool(held.all()) else held.to(hidden.device)

        columns = reduction.columns
        return hidden, {
            **kwargs,
            "position_embeddings": forward.shared(_gather_positions, kwargs["position_embeddings"], columns),
            "position_ids": None,
            "attention_mask": forward.shared(real, None, columns, None, hidden.device),
        }

    def _prefill_mask(
        self, index: int, forward: _Forward, hidden: Tensor, columns: Tensor, past: Tensor | None, kwargs: Any
    ) -> Any:
        given, cache = kwargs.get("attention_mask"), caches.of_call(kwargs)
        window = window_of(self._layers[index])
        slots = None
        if cache is not None and caches.is_static(cache):
            # What exceeds the buffers of a sliding-window layer it hands over once, with the prefill.
            slots = max(cache.layers[index].max_cache_len, columns.shape[1])

        def rebuild(_: Any, columns: Tensor) -> Any:
            valid = columns >= 0 if past is None else torch.cat([past, columns], dim=1) >= 0
            full = None if bool(valid.all()) else valid.to(hidden.device)
            mask = masks.causal(self._decoder.config, hidden, full, 0 if past is None else past.shape[1])
            if slots is not None and masks.is_dense(mask):
                # A static cache hands over its whole buffers.
                mask = masks.padded_to(mask, slots)
            return mask

        def cut(given: Tensor, columns: Tensor) -> Tensor:
            before, columns = None, columns.to(hidden.device)
            if past is not None:
                absolute = torch.where(columns >= 0, columns + forward.filled, -1)
                before = masks.before(past.to(hidden.device), absolute, window)
            return masks.shortened(given.to(hidden.device), columns, before, slots)

        make = cut if masks.is_dense(given) else rebuild
        return forward.shared(make, given, columns, past, hidden.device)

    def _decode_layer(
        self, index: int, hidden: Tensor, cache: Any, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]] | None:
        layout = None if cache is None else caches.layout_of(cache)
        slots = None if layout is None else layout.layers.get(index)
        if slots is None:
            return None
        given: Any = kwargs.get("attention_mask")
        if caches.is_shortened_static(cache.layers[index]):
            refusals.static_cache(self._decoder)
            columns = caches.static_columns(cache.layers[index], slots, hidden.shape[1]).to(hidden.device)
            return hidden, {**kwargs, "attention_mask": masks.static_step(given, columns)}
        return hidden, {**kwargs, "attention_mask": self._decoding_mask(index, hidden, cache, slots, given)}

    def _decoding_mask(self, index: int, hidden: Tensor, cache: Any, slots: caches.Slots, given: Any) -> Any:
        layout, queries = caches.layout_of(cache), hidden.shape[1]
        assert layout is not None
        held, window = caches.held(cache, index), window_of(self._layers[index])
        # A cache may have been cropped into the text at the end of its prompt.
        prefilled = slots.columns[:, :held].to(hidden.device)
        first = slots.length - (slots.columns.shape[1] - prefilled.shape[1])
        tail = held - prefilled.shape[1] + queries
        key = (slots, held, window, hidden.device)
        made = layout.steps.get(key)
        if made is not None and made[0] is given:
            return made[1]
        new = torch.arange(first, first + tail, device=hidden.device).expand(len(prefilled), -1)
        columns, valid = torch.cat([prefilled, new], dim=1), None
        seen = masks.tail_of(given, tail)
        if slots.padded or seen is not None:
            seen = torch.ones_like(new, dtype=torch.bool) if seen is None else seen.to(hidden.device)
            valid = torch.cat([prefilled >= 0, seen.expand(len(prefilled), -1)], dim=1)
        mask = masks.decoding(self._decoder.config, hidden, columns, valid, window, first + tail)
        if len(layout.steps) >= _STEP_MASKS:
            layout.steps.clear()
        layout.steps[key] = (given, mask)
        return mask


class _Forward:
    """One forward pass of an attached model over more than one token, between its first hook and its last."""

    def __init__(self, run: Run, arguments: Mapping[str, Any]) -> None:
        self.run, self.arguments = run, arguments
        self.reduction: Reduction | None = None
        self.filled = 0
        """Columns of the conversation that the cache held before."""
        self.valid_before: Tensor | None = None
        self.recorder: recording.Recorder | None = None
        self.deepstack: DeepStack | None = None
        self._made: dict[Any, tuple[Any, Any]] = {}

    def shared(
        self,
        make: Callable[[Any, Tensor], Any],
        given: Any,
        columns: Tensor,
        past: Tensor | None = None,
        device: torch.device | None = None,
    ) -> Any:
        """``make(given, columns)``, made once for all layers that have these in common."""
        held = None if past is None else past.numpy().tobytes()
        key = (make.__name__, id(given), id(columns), held, device)
        if key not in self._made:
            # The inputs are kept as well, so that their ids stay theirs.
            self._made[key] = ((given, columns), make(given, columns))
        return self._made[key][1]


_STEP_MASKS = 8
"""Decoding masks that a cache keeps: more than the kinds of layers of a step, and few enough to forget."""

_current: ContextVar[_Forward | None] = ContextVar("framefusion_forward", default=None)
_records: ContextVar[WeakKeyDictionary[Run, Reduction] | None] = ContextVar("framefusion_records", default=None)


@torch.compiler.disable
def _leave(run: Run) -> None:
    """Forget the forward pass under way, also one that was interrupted: Ctrl-C runs no hook."""
    forward = _current.get()
    if forward is not None and forward.run is run:
        _current.set(None)
        recording.active.set(None)


def _gather_positions(embeddings: tuple[Tensor, ...], columns: Tensor) -> tuple[Tensor, ...]:
    """The rotary embeddings of the tokens that stay: ``(..., B or 1, N, d)`` to ``(..., B, n, d)``.

    Sliced, never renumbered: every token keeps its original position.
    """
    batch, length = columns.shape
    index = columns.clamp_min(0)[:, :, None]

    def gather(table: Tensor) -> Tensor:
        table = table.expand(*table.shape[:-3], batch, *table.shape[-2:])
        return table.gather(-2, index.to(table.device).expand(*table.shape[:-2], length, table.shape[-1]))

    return tuple(gather(table) for table in embeddings)
