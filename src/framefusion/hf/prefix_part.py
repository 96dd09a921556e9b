"""The prefill of what is added to a prefix: cut out of a prompt, at the positions that it has behind the prefix."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from framefusion.hf import cache as caches
from framefusion.hf import encoder, masks
from framefusion.hf.calls import cache_argument
from framefusion.hf.decoder import Decoder
from framefusion.hf.deepstack import DeepStack
from framefusion.hf.families import Call
from framefusion.hf.inputs import LayerInputs, Prompt
from framefusion.hf.prefill import Prefill, check_cache, layouts_of
from framefusion.hf.prefix import Extension, ForkReached, Prefix
from framefusion.reduction.reducer import Reduction
from framefusion.reduction.settings import FrameFusion


class PartPrefill(Prefill):
    """The prefill of what is added to a prefix; ends at the fork."""

    def __init__(
        self, extension: Extension, fork: int, positions: Tensor, end: int, groups: Tensor | None, *args: Any
    ) -> None:
        super().__init__(*args)
        self._extension, self._fork, self._groups = extension, fork, groups
        self._positions, self._end = positions, end
        self._ids = torch.zeros(1, 0, dtype=torch.long)
        self._per_layer_inputs: Tensor | None = None
        self._cache: Any = None

    def before_layer(self, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> Any:
        if index == self._fork:
            self.finish(hidden)
            raise ForkReached
        return super().before_layer(index, hidden, kwargs)

    def finish(self, hidden: Tensor | None) -> None:
        """Note the prefix that it has become.

        Args:
            hidden: ``(1, n, D)`` before the fork; None where no layer is left.
        """
        before, held = self._extension.prefix, self.reduction.held()
        ids, positions, groups, deepstack = self._ids, self._positions, self._groups, self.deepstack
        per_layer = None
        if self._per_layer_inputs is not None and hidden is not None:
            per_layer = self._per_layer_inputs[:, held.columns.to(hidden.device), self._fork :]
        if deepstack is not None and len(deepstack.features) <= self._fork:
            deepstack = None
        last = positions[:, -1:]
        if before is not None:
            deepstack = DeepStack.joined((before.deepstack, before.length), (deepstack, held.length))
            groups = _joined_groups(before, groups, held.length)
            held = before.held.followed_by(held, continues=self._extension.continues)
            ids = torch.cat([before.ids, ids], dim=1)
            positions = torch.cat([before.positions, positions], dim=1)
            if before.hidden is not None and hidden is not None:
                hidden = torch.cat([before.hidden, hidden], dim=1)
            if before.per_layer is not None and per_layer is not None:
                per_layer = torch.cat([before.per_layer, per_layer], dim=1)
        self._extension.result = Prefix(
            settings=self.reduction.settings,
            fork=self._fork,
            ids=ids,
            positions=positions,
            last=last,
            end=self._end,
            cache=self._cache,
            hidden=hidden,
            held=held,
            groups=groups,
            deepstack=deepstack,
            per_layer=per_layer,
        )

    def fills(self, cache: Any, ids: Tensor, per_layer_inputs: Tensor | None) -> None:
        """Note the cache that it fills, the ids ``(1, n)`` of the part, and what its layers take beside the hidden
        states, ``(1, n, layers, D')`` or None."""
        self._cache, self._ids, self._per_layer_inputs = cache, ids, per_layer_inputs

    def _as_given(self, index: int, cache: Any) -> bool:
        # The masks that the model made ahead of its decoder know nothing of the prefix.
        return False

    def _record(self, index: int, inputs: LayerInputs) -> None:
        """No stage before the fork goes by attention."""


def _joined_groups(before: Prefix, groups: Tensor | None, length: int) -> Tensor | None:
    if before.groups is None and groups is None:
        return None
    first = torch.arange(before.length) if before.groups is None else before.groups
    second = torch.arange(length) if groups is None else groups
    return torch.cat([first, second + before.length])


def start_part(
    decoder: Decoder, settings: FrameFusion, extension: Extension, call: Call, kwargs: dict[str, Any]
) -> tuple[PartPrefill, dict[str, Any]]:
    """Begin the prefill of a part: what its decoder is called with, cut to the part.

    Args:
        decoder: that is about to run.
        settings: of the reduction.
        extension: what to add.
        call: what the multimodal model was called with.
        kwargs: the arguments of the decoder.
    """
    before, first, end = extension.prefix, extension.first, extension.end
    past = 0 if before is None else before.length
    count = end - first
    hidden = kwargs["inputs_embeds"][:, first:end]
    layouts, seen = layouts_of(decoder, settings, call, 1)
    own = layouts[0].between(first, end)
    columns = torch.zeros(0, dtype=torch.long) if seen is None else seen[0]
    seen_here = columns[(columns >= first) & (columns < end)] - first
    reducing = bool(len(own)) and not settings.keeps_all
    cache = DynamicCache(config=decoder.module.config) if before is None else caches.copied(before.cache)
    if reducing or past:
        check_cache(decoder, settings, cache, filled=past > 0)
    weights = None
    if reducing and settings.relevance.of.encoder:
        inside = (layouts[0].columns >= first) & (layouts[0].columns < end)
        received = encoder.received(call, layouts)[0]
        weights = [received[inside.to(received.device)]]
    layers = len(decoder.layers)
    valid = torch.ones(1, count, dtype=torch.bool)
    reduction = Reduction(settings, [own], valid, layers, decoder.first, seen=[seen_here], encoder=weights)
    deepstack = None
    if kwargs.get("deepstack_visual_embeds") is not None:
        deepstack = DeepStack(kwargs["visual_pos_masks"], kwargs["deepstack_visual_embeds"]).between(first, end)
    positions, after, mrope = _positions_of(decoder, kwargs.get("position_ids"), extension, hidden.device)
    mask, groups = _cut_masks(kwargs.get("attention_mask"), first, end)
    past_valid = torch.ones(1, past, dtype=torch.bool) if past else None
    assert call.input_ids is not None
    ids = call.input_ids[:, first:end]
    prompt = Prompt(decoder.module.config, count, past, past_valid, ids=ids)
    part = PartPrefill(
        extension, settings.fork(layers, decoder.first), positions, after, groups, decoder, reduction, prompt, deepstack
    )
    kwargs = {**kwargs, "inputs_embeds": hidden}
    if decoder.family.per_layer is not None and kwargs.get(decoder.family.per_layer[0]) is not None:
        name = decoder.family.per_layer[0]
        kwargs[name] = kwargs[name][:, first:end]
    part.fills(cache, ids, decoder.family.per_layer_inputs(decoder.module, kwargs))
    extension.part = part
    changed = {
        **kwargs,
        "position_ids": positions[:, None] if mrope else positions,
        "attention_mask": mask,
        **cache_argument(type(decoder.module).forward, cache),
    }
    changed |= {
        name: kwargs[name][:, first:end]
        for name in decoder.family.token_arguments(decoder.multimodal, ids)
        if kwargs.get(name) is not None
    }
    if deepstack is not None:
        changed |= {"visual_pos_masks": None, "deepstack_visual_embeds": None}
    return part, changed


def _positions_of(
    decoder: Decoder, given: Tensor | None, extension: Extension, device: torch.device
) -> tuple[Tensor, int, bool]:
    """``(1 or 3, n)`` positions of a part, that of a text token behind it, and whether the decoder takes three
    channels."""
    before, first, end = extension.prefix, extension.first, extension.end
    if given is None:
        begin = 0 if before is None else before.end
        return torch.arange(begin, begin + end - first, device=device)[None], begin + end - first, False
    mrope = given.ndim == 3
    # A fourth channel, if there is one, goes first and counts the text.
    whole = given[-3:, 0] if mrope else given[:1]
    own, shift = whole[:, first:end], torch.zeros_like(whole[:, :1])
    if before is not None and extension.continues:
        shift = before.last.to(own.device) - whole[:, first - 1 : first]
    elif before is not None:
        shift = shift + before.end - own[:1, :1]
    own = own + shift
    largest = max(int(own.max()) + 1, 0 if before is None else before.end)
    if end == whole.shape[1] or (extension.continues and follows_largest(decoder)):
        return own, largest, mrope
    return own, int(whole[-1, end] + shift[-1, 0]), mrope


def follows_largest(decoder: Decoder) -> bool:
    """Whether text behind a video comes after its largest position, rather than after the height and width of a frame.

    That depends on the release of ``transformers``. Asked of a video of nine frames of one token each; where the model
    gives every frame positions of its own, both are the same.
    """
    ask = getattr(decoder.multimodal, "get_rope_index", None)
    if ask is None:
        return True
    frames, config = 9, decoder.multimodal.config
    merge = getattr(config.vision_config, "spatial_merge_size", 1)
    token = getattr(config, "video_token_id", None)
    ids = torch.tensor([[0, *[token or 0] * frames, 0]])
    known = {
        "input_ids": ids,
        "mm_token_type_ids": torch.tensor([[0, *[2] * frames, 0]]),
        "video_grid_thw": torch.tensor([[frames, merge, merge]]),
        "second_per_grids": torch.ones(1),
        "attention_mask": torch.ones_like(ids),
    }
    try:
        found = ask(**{name: value for name, value in known.items() if name in inspect.signature(ask).parameters})
        return bool(found[0][0, 0, -1] > frames)
    except (TypeError, ValueError, RuntimeError, IndexError, StopIteration):
        return False


def _cut_masks(given: Any, first: int, end: int) -> tuple[Any, Tensor | None]:
    """The masks of a part, made ahead of the decoder, and the groups of its columns, see :func:`masks.groups_of`."""
    if not isinstance(given, dict):
        if masks.is_dense(given):
            cut = given[..., first:end, first:end]
            return cut, masks.groups_of(cut)
        return None, None
    cut = {name: own[..., first:end, first:end] if masks.is_dense(own) else own for name, own in given.items()}
    found = [masks.groups_of(own) for own in cut.values() if masks.is_dense(own)]
    return cut, next((groups for groups in found if groups is not None), None)
