"""The attention that visual tokens receive in the vision encoder, recorded beside whatever computes it.

While installed, the attention module of the encoder's last layer sees its config through an :class:`EncoderConfig`,
which names this module's attention function while videos or images are encoded. The family brings what the patches
received to the visual tokens. That travels as ``attentions`` of the encoder's output, ``(N,)`` over all visual tokens
of the call in order, so that videos which are encoded ahead of the prefill bring it along.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, get_args
from weakref import WeakSet

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.utils import ModelOutput

from framefusion.errors import ArgumentError
from framefusion.hf import grids, methods, recording
from framefusion.hf.families import FAMILIES, Call, Family, UnsupportedModelError, find, unwrapped
from framefusion.hf.towers import running
from framefusion.reduction.layout import Kind, VisualLayout
from framefusion.reduction.relevance import attention_received_from_all

_NAME = "framefusion_encoder"

_recording: WeakSet[nn.Module] = WeakSet()
"""Models whose encoder is recorded."""

_patches: ContextVar[list[Tensor] | None] = ContextVar("framefusion_patches", default=None)
"""What the patches of the call under way received, one tensor for each time that the attention function ran."""
_latest: ContextVar[Mapping[Kind, Tensor] | None] = ContextVar("framefusion_encoder_latest", default=None)
"""What the visual tokens received in the latest calls of the encoder, for videos encoded inside the forward pass."""


class EncoderConfig(recording.RecordingConfig):
    """A config that names the recording attention function while videos or images are encoded."""

    def __getattr__(self, name: str) -> Any:
        if name == "_attn_implementation" and _patches.get() is not None:
            return _NAME
        return super().__getattr__(name)

    @property
    def own(self) -> Any:
        """The config itself."""
        return self.__dict__["_config"]


def install(model: Any) -> Iterator[Callable[[], None]]:
    """Record the attention of a model's vision encoder from now on; gives the functions that undo it.

    Args:
        model: the multimodal model, without the head.

    Raises:
        UnsupportedModelError: its family does not tell where that attention is.
    """
    family = find(model)
    module = family.encoder_attention(model)
    if module is None:
        known = ", ".join(other.name for other in FAMILIES if other.tells_encoder)
        raise UnsupportedModelError(
            f"relevance='encoder' and 'encoder-last' go by the attention of the vision encoder, and {family.name} "
            f"({type(model).__name__}) does not tell that of this one. Known: {known}. Use another relevance, such as "
            "'similarity'."
        )
    if model in _recording:
        return  # what the encoder then gives carries its attention already
    _recording.add(model)
    yield partial(_recording.discard, model)
    if isinstance(module, nn.MultiheadAttention):
        # The pooling head of an encoder asks for its weights anyway.
        yield module.register_forward_hook(_pooled).remove
    else:
        yield _configured(module)
    for kind in get_args(Kind):
        yield methods.replace(model, f"get_{kind}_features", partial(_carrying, family, model, kind))


@contextmanager
def recorded(model: Any) -> Iterator[None]:
    """Record inside the block, for a model of any family; nothing where the family does not tell, or where the encoder
    computes part of its attention only. Features carry their grids where the family needs that.

    Args:
        model: a supported model, with or without its head.
    """
    model = unwrapped(model).base_model
    undo: list[Callable[[], None]] = []
    try:
        undo.extend(grids.install(model))
        if find(model).encoder_attention(model) is not None and model not in running.attached:
            undo.extend(install(model))
        yield
    finally:
        while undo:
            undo.pop()()


def forget() -> None:
    """A forward pass begins: what was encoded before belongs to another one, or comes with its arguments."""
    _latest.set(None)


def received(call: Call, layouts: Sequence[VisualLayout]) -> list[Tensor]:
    """The attention that the visual tokens of each sample received.

    Args:
        call: what the model was called with.
        layouts: of the samples.

    Returns:
        per sample ``(N_visual,)`` float, in the order of the layout, where the encoder is.

    Raises:
        ValueError: a video or image was encoded without recording.
    """
    result = [torch.zeros(len(layout)) for layout in layouts]
    for kind in get_args(Kind):
        items = [[i for i, own in enumerate(layout.kinds) if own == kind] for layout in layouts]
        counts = [sum(layout.counts[i] for i in own) for layout, own in zip(layouts, items, strict=True)]
        if not sum(counts):
            continue
        scores = _carried(call, kind)
        # Beams and several returned sequences share the encoding of their sample: rows of one follow each other.
        rows, rest = (0, 1) if scores is None or not len(scores) else divmod(sum(counts), len(scores))
        if scores is None or rest or len(layouts) % rows:
            got = "nothing" if scores is None else f"{len(scores)} tokens"
            raise ArgumentError(
                f"the {kind}s of this call have {sum(counts)} visual tokens, but of {got} the attention in the vision "
                "encoder was recorded. Encode them while the reduction is attached, or use another relevance."
            )
        first = 0
        # scores is (N,) over the samples that were encoded; all rows of one take the same part of it.
        for start in range(0, len(layouts), rows):
            for b in range(start, start + rows):
                result[b] = result[b].to(scores)
                at = first
                for i in items[b]:
                    result[b][layouts[b].item == i] = scores[at : at + layouts[b].counts[i]]
                    at += layouts[b].counts[i]
            first = at
    return result


def _carried(call: Call, kind: Kind) -> Tensor | None:
    output = call.encoded(kind)
    found = (_latest.get() or {}).get(kind) if output is None else getattr(output, "attentions", None)
    return found if isinstance(found, Tensor) else None


def _configured(module: Any) -> Callable[[], None]:
    original = module.config
    module.config = EncoderConfig(original, module)

    def undo() -> None:
        module.config = original

    return undo


def _pooled(module: nn.Module, args: Any, output: tuple[Tensor, Tensor | None]) -> None:
    found, weights = _patches.get(), output[1]
    if found is not None and weights is not None:
        found.append(weights[:, 0])


def _carrying(family: Family, model: Any, kind: Kind, encode: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(encode)

    def features(*args: Any, **kwargs: Any) -> Any:
        found: list[Tensor] = []
        token = _patches.set(found)
        try:
            output = encode(*args, **kwargs)
        finally:
            _patches.reset(token)
        scores = family.encoder_scores(model, kind, found, signature.bind_partial(*args, **kwargs).arguments)
        _latest.set({**(_latest.get() or {}), **({} if scores is None else {kind: scores})})
        if scores is not None and isinstance(output, ModelOutput):
            output["attentions"] = scores
        return output

    return features


def _attention(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any) -> Any:
    found = _patches.get()
    if found is not None:
        scaling = kwargs.get("scaling")
        factor = query.shape[-1] ** -0.5 if scaling is None else scaling
        with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
            found.append(attention_received_from_all(query, key, factor))
    function = recording.attention_function(module, module.config.own._attn_implementation)
    return function(module, query, key, value, attention_mask, **kwargs)


AttentionInterface.register(_NAME, _attention)
