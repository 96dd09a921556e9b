"""The one way in: attach a reduction to a Hugging Face video LLM. The hooks live here and nowhere else.

A stage runs in a pre-hook of a decoder layer, on the output of the layer before. The published code reduces inside
a layer, between its attention and its MLP; the difference is one MLP per stage, and no layer code is copied.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import partial
from types import TracebackType
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from framefusion.hf import cache as caches
from framefusion.hf import masks, recording
from framefusion.hf.families import Call, UnsupportedModelError, find
from framefusion.hf.summary import DecoderSize, Summary, summarize
from framefusion.layout import VisualLayout
from framefusion.reducer import Reduction, Stage
from framefusion.settings import FrameFusion

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
        ValueError: the settings cannot be followed by this model, e.g. an unreachable cost.
        RuntimeError: the model has a reduction attached already.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a loaded Hugging Face model, got {type(model).__name__}.")
    settings = FrameFusion() if settings is None else settings
    if not isinstance(settings, FrameFusion):
        raise TypeError(f"settings must be a FrameFusion, got {type(settings).__name__}.")
    return Run(model, settings)


class Run:
    """A reduction attached to a model; made by :func:`attach`.

    What it tells is about the latest prefill.
    """

    def __init__(self, model: Any, settings: FrameFusion) -> None:
        self.settings = settings
        self._family = find(model)
        self._multimodal: Any = model.base_model
        self._decoder: Any = self._multimodal.get_decoder()
        self._layers: list[Any] = list(self._decoder.layers)
        self._signature = inspect.signature(type(self._multimodal).forward)
        if self._decoder in _attached:
            raise RuntimeError(
                f"this {type(model).__name__} has a reduction attached already; call detach() on its handle first."
            )
        if "sliding_attention" in (getattr(self._decoder.config, "layer_types", None) or ()):
            raise UnsupportedModelError(
                f"{type(model).__name__} is configured with sliding-window layers (use_sliding_window), which "
                "reduction does not support; load it with use_sliding_window=False in its config."
            )
        settings.check(len(self._layers))
        self._size = DecoderSize.of(self._layers, self._decoder.config, self._decoder.dtype)
        self._reduction: Reduction | None = None
        self._undo: list[Callable[[], None]] = []
        self._hook(model)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

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
        self._multimodal = self._decoder = None
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
        the layout; ids go on across the videos of a sample."""
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
        )

    def _latest(self) -> Reduction:
        if self._reduction is None:
            raise RuntimeError("no prefill has run yet: call the model or model.generate() while attached.")
        if not self._reduction.finished:
            raise RuntimeError("the latest prefill did not reach its end, so there is nothing to tell about it.")
        return self._reduction

    def _hook(self, model: Any) -> None:
        def keep(handle: Any) -> None:
            self._undo.append(handle.remove)

        _attached.add(self._decoder)
        self._undo.append(partial(_attached.discard, self._decoder))
        if model is not self._multimodal and not self.settings.keeps_all:
            keep(model.register_forward_pre_hook(_refuse_labels, with_kwargs=True))
        keep(self._multimodal.register_forward_pre_hook(self._enter_call, with_kwargs=True))
        keep(self._multimodal.register_forward_hook(self._leave_call, always_call=True))
        keep(self._decoder.register_forward_pre_hook(self._enter_decoder, with_kwargs=True))
        for index, layer in enumerate(self._layers):
            self._undo.append(recording.install(layer.self_attn))
            keep(layer.register_forward_pre_hook(self._before(index), with_kwargs=True))

    def _enter_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        bound = self._signature.bind_partial(module, *args, **kwargs).arguments
        arguments = {**bound, **bound.pop("kwargs", {})}
        _current.set(_Forward(self, arguments))
        recording.active.set(None)

    def _leave_call(self, module: nn.Module, args: Any, output: Any) -> None:
        _leave(self)

    def _enter_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        forward = _current.get()
        if forward is None or forward.run is not self:
            raise RuntimeError(
                f"the language model of {type(self._multimodal).__name__} was called directly while a reduction is "
                "attached, which hides where the visual tokens are. Call the whole model, or detach first."
            )
        hidden = kwargs["inputs_embeds"]
        cache = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 0:
            self._start_decoding(forward, hidden, cache, kwargs)
            return
        if cache is not None:
            caches.start(cache)
        if hidden.shape[1] > 1:
            self._start_prefill(forward, hidden, cache, kwargs)

    def _start_prefill(self, forward: _Forward, hidden: Tensor, cache: Any, kwargs: Mapping[str, Any]) -> None:
        self._reduction = None
        call = Call(forward.arguments.get("input_ids"), kwargs.get("position_ids"), forward.arguments)
        if call.input_ids is None and not self.settings.keeps_all:
            raise ValueError(
                "input_ids is missing: framefusion finds the visual tokens by their placeholders. Pass input_ids "
                "and the video instead of inputs_embeds, or detach first."
            )
        if call.input_ids is None or not call.has_video:
            layouts = [VisualLayout.from_grids([], [])] * len(hidden)
        else:
            layouts = self._family.layouts(self._multimodal, call)
        mask = kwargs.get("attention_mask")
        valid = torch.ones(hidden.shape[:2], dtype=torch.bool)
        if isinstance(mask, Tensor) and mask.ndim == 2:
            valid = mask.cpu().bool()
        if any(map(len, layouts)) and not self.settings.keeps_all:
            self._check_prefill(layouts, valid, cache, mask)
        forward.reduction = self._reduction = Reduction(self.settings, layouts, valid, len(self._layers))

    def _check_prefill(self, layouts: list[VisualLayout], valid: Tensor, cache: Any, mask: Any) -> None:
        if self._decoder.training:
            raise RuntimeError(
                "the model is in training mode; reduction is for inference. Call model.eval() or detach first."
            )
        if cache is not None:
            caches.check(cache)
        if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
            raise ValueError("attention_mask must be 2D (batch, length) or None while a reduction is attached.")
        for b, layout in enumerate(layouts):
            hidden = int((~valid[b, layout.columns]).sum())
            if hidden:
                raise ValueError(
                    f"attention_mask hides {hidden} of the {len(layout)} video tokens of sample {b}; only padding may "
                    "be masked while a reduction is attached."
                )

    def _start_decoding(self, forward: _Forward, hidden: Tensor, cache: Any, kwargs: Mapping[str, Any]) -> None:
        if forward.call.has_video and hidden.shape[1] > 1 and not self.settings.keeps_all:
            raise ValueError(
                "a video came with a cache that is already filled (a later turn, or prefill_chunk_size); reducing it "
                "there is not supported. Start with the whole prompt at once and an empty cache, or detach first."
            )
        forward.layout = caches.layout_of(cache)
        if forward.layout is None:
            return
        batch = next(iter(forward.layout.valid.values())).shape[0]
        if batch != hidden.shape[0]:
            raise ValueError(
                f"past_key_values was filled for a batch of {batch}, but the call has {hidden.shape[0]} rows; start "
                "again with an empty cache."
            )
        mask = kwargs.get("attention_mask")
        if isinstance(mask, Tensor) and mask.ndim == 2 and not bool(mask[:, forward.layout.length :].all()):
            forward.tail = mask.to(hidden.device).bool()

    def _before(self, index: int) -> Callable[..., Any]:
        def pre_hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            forward = _current.get()
            if forward is None or forward.run is not self:
                return None
            hidden = args[0] if args else kwargs["hidden_states"]
            if forward.reduction is not None:
                changed = self._prefill_layer(index, forward, forward.reduction, hidden, kwargs)
            elif forward.layout is not None and index in forward.layout.valid:
                changed = self._decode_layer(index, forward, forward.layout, hidden, kwargs)
            else:
                return None
            if changed is None:
                return None
            hidden, kwargs = changed
            return ((hidden, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": hidden})

        return pre_hook

    def _prefill_layer(
        self, index: int, forward: _Forward, reduction: Reduction, hidden: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]] | None:
        cache = kwargs.get("past_key_values")
        recorder, forward.recorder = forward.recorder, None
        if recorder is not None and recorder.received is None:
            raise RuntimeError(
                f"the attention of layer {index - 1} could not be recorded: its module does not take its attention "
                "function from the config. Use relevance='none', or an unpatched attention module."
            )
        hidden = reduction.before_layer(index, hidden, None if recorder is None else recorder.received)
        if reduction.wants_attention(index + 1) and index + 1 < len(self._layers):
            attention = self._layers[index].self_attn
            forward.recorder = recording.Recorder(attention, reduction.query_rows(), reduction.columns >= 0)
            recording.active.set(forward.recorder)
        if not reduction.reduced:
            return None
        if forward.shortened is not reduction.columns:
            forward.shortened = reduction.columns
            forward.valid = (reduction.columns >= 0).to(hidden.device)
            forward.positions = _gather_positions(kwargs["position_embeddings"], reduction.columns)
            forward.mask = masks.causal(self._decoder.config, hidden, forward.valid if reduction.padded else None)
        assert forward.valid is not None
        if cache is not None:
            dropped = reduction.length - hidden.shape[1]
            caches.remember(cache, index, forward.valid, reduction.padded, dropped)
        return hidden, {
            **kwargs,
            "position_embeddings": forward.positions,
            "position_ids": None,
            "attention_mask": forward.mask,
        }

    def _decode_layer(
        self,
        index: int,
        forward: _Forward,
        layout: caches.CacheLayout,
        hidden: Tensor,
        kwargs: dict[str, Any],
    ) -> tuple[Tensor, dict[str, Any]]:
        prefilled = layout.valid[index]
        held = caches.held(kwargs["past_key_values"], index)
        if forward.shortened is not prefilled:
            forward.shortened = prefilled
            valid = None
            if index in layout.padded or forward.tail is not None:
                # A cache may have been cropped into its prompt.
                kept = prefilled[:, :held].to(hidden.device)
                new = held - kept.shape[1] + hidden.shape[1]
                tail = kept.new_ones(len(kept), new) if forward.tail is None else forward.tail[:, -new:]
                valid = torch.cat([kept, tail], dim=1)
            forward.mask = masks.causal(self._decoder.config, hidden, valid, held)
        return hidden, {**kwargs, "attention_mask": forward.mask}


class _Forward:
    """One forward pass of an attached model, between its first hook and its last."""

    def __init__(self, run: Run, arguments: Mapping[str, Any]) -> None:
        self.run, self.arguments = run, arguments
        self.reduction: Reduction | None = None
        self.layout: caches.CacheLayout | None = None
        self.tail: Tensor | None = None
        self.recorder: recording.Recorder | None = None
        self.shortened: Tensor | None = None
        self.valid: Tensor | None = None
        self.positions: Any = None
        self.mask: Any = None

    @property
    def call(self) -> Call:
        return Call(self.arguments.get("input_ids"), None, self.arguments)


_current: ContextVar[_Forward | None] = ContextVar("framefusion_forward", default=None)


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


def _refuse_labels(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if kwargs.get("labels") is not None:
        raise ValueError(
            "labels cannot be used while a reduction is attached: the logits are shorter than the labels. Detach "
            "to compute a loss."
        )
