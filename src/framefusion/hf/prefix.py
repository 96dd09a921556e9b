"""The beginning of a prompt, prefilled once for all that may follow it: several questions, or more of a video.

A prefix ends with its last visual token. Up to its *fork*, the first layer before which a stage goes by the question,
its layers have run for good, and their keys and values are held. Before the fork its hidden states are held, from
which every question goes on by itself. So an answer is that of asking afresh, whatever the stages go by.

Whatever a prefix holds is never written into: what is added makes a new prefix, and every cache that goes on from one
shares its tensors until it is added to.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from framefusion.errors import ArgumentError, StateError
from framefusion.hf import cache as caches
from framefusion.hf import cache_layers, encoder, masks, recording
from framefusion.hf.calls import cache_argument
from framefusion.hf.decoder import Decoder, attends, window_of
from framefusion.hf.deepstack import DeepStack
from framefusion.hf.families import Call, find, unwrapped
from framefusion.hf.families import layouts_of as layouts_in
from framefusion.hf.inputs import LayerInputs, Prompt
from framefusion.hf.prefill import Prefill, check_cache, layouts_of
from framefusion.reduction.held import Held
from framefusion.reduction.reducer import Reduction
from framefusion.reduction.settings import FrameFusion


@dataclass(frozen=True, eq=False)
class Prefix:
    """The beginning of a prompt of one sample, as a model and settings left it.

    Attributes:
        settings: of the reduction.
        fork: layers that have run for good.
        ids: ``(1, N)`` int64: token ids of the columns.
        positions: ``(1 or 3, N)`` int64: of each column, as the decoder gets them; three channels for M-RoPE.
        last: ``(1 or 3, 1)`` int64: of the last column, whether or not it is counted any more.
        end: the position of a text token that follows.
        cache: keys and values of the layers before the fork; copied, never written into.
        hidden: ``(1, n, D)`` before the fork, of the columns that are held; None where no layer is left.
        held: which columns these are, and what the stages so far tell.
        groups: ``(N,)`` int64 on the CPU: columns of one group see each other; None where there are none.
        deepstack: visual features that are added behind the fork; None without.
    """

    settings: FrameFusion
    fork: int
    ids: Tensor
    positions: Tensor
    last: Tensor
    end: int
    cache: Any = field(repr=False)
    hidden: Tensor | None = field(repr=False)
    held: Held = field(repr=False)
    groups: Tensor | None = field(repr=False)
    deepstack: DeepStack | None = field(repr=False)

    @property
    def length(self) -> int:
        """Columns, ``N``, whether or not they are held."""
        return self.held.length

    @property
    def nbytes(self) -> int:
        """Bytes of the keys, values, recurrent states and hidden states."""
        hidden = 0 if self.hidden is None else self.hidden.nbytes
        return hidden + sum(map(cache_layers.nbytes, self.cache.layers))

    def to_continue(self, behind: Tensor | None = None) -> Any:
        """A cache from which the model goes on behind this prefix while the reduction is attached.

        The next call of the model, or of ``generate()``, is to bring at least two tokens of text, and an
        ``attention_mask`` over the prefix and them.

        Args:
            behind: ``(B, q)`` bool or int: the mask of several texts, padded on the left; None for one without padding.
        """
        rows = 1 if behind is None else len(behind)
        pads = torch.zeros(rows, dtype=torch.long) if behind is None else (behind == 0).sum(1).cpu()
        return caches.behind(caches.copied(self.cache, rows), self, pads)

    def positions_behind(self, first: int, end: int, pads: Tensor) -> Tensor:
        """``(1 or 3, B, end - first)`` int64: positions of the columns from ``first`` to before ``end``.

        Args:
            first: at least :attr:`length`.
            end: past the last.
            pads: ``(B,)`` int64: columns of padding behind the prefix.
        """
        columns = torch.arange(first, end, device=self.positions.device) - self.length
        behind = (columns[None] - pads[:, None].to(columns.device)).clamp_min(0) + self.end
        return behind.expand(len(self.positions), -1, -1)


class Extension:
    """What one forward pass adds to a prefix.

    Args:
        owner: of the reduction that is attached to the model.
        prefix: None for the first part.
        first: column of the call from which on it is added.
        end: past the last.
        continues: whether the part goes on with the last video of the prefix, of which the call shows the end before
            ``first``.

    Attributes:
        result: the prefix that it has become; None before.
        part: the prefill under way.
    """

    def __init__(self, owner: Any, prefix: Prefix | None, first: int, end: int, continues: bool) -> None:
        self.owner, self.prefix, self.continues = owner, prefix, continues
        self.first, self.end = first, end
        self.result: Prefix | None = None
        self.part: PartPrefill | None = None

    def complete(self) -> None:
        """Every layer has run."""
        assert self.part is not None
        self.part.finish(None)


class ForkReached(Exception):  # noqa: N818
    """The layers that a prefix needs have run."""


def media_end(model: Any, inputs: Mapping[str, Any]) -> int:
    """The column behind the last one that a video or image of a sample fills, a newline at its end included.

    Args:
        model: a supported model.
        inputs: what it is called with, of one sample.

    Raises:
        ValueError: there is no visual token.
    """
    if len(inputs["input_ids"]) != 1:
        raise _several_rows()
    (layout,) = layouts_in(model, inputs)
    ids = inputs["input_ids"][0].cpu()
    filled = torch.isin(ids, ids[layout.columns]).nonzero()
    if not len(filled):
        raise ArgumentError("input_ids has no visual token; a prefix ends with a video or an image.")
    return int(filled[-1]) + 1 + find(unwrapped(model)).closing


def _several_rows() -> ArgumentError:
    return ArgumentError("a prefix is of one sample: pass input_ids of one row, as the processor makes them.")


def takes_padding(model: Any) -> bool:
    """Whether texts of several lengths may follow a prefix of this model as one batch: not where padding would count in
    windows, or enter recurrent states."""
    layers = Decoder(model).layers
    return all(attends(layer) and window_of(layer) is None for layer in layers)


def extension_of(
    owner: Any,
    decoder: Decoder,
    inputs: Mapping[str, Any],
    first: int,
    end: int,
    prefix: Prefix | None,
    *,
    continues: bool,
) -> Extension:
    """What to hand to the hooks, checked.

    Args:
        owner: as for :class:`Extension`.
        decoder: that will run.
        inputs: of the multimodal model.
        first: as for :class:`Extension`.
        end: likewise.
        prefix: likewise.
        continues: likewise.

    Raises:
        ValueError: the columns are none of the call, or there is nothing that could go on.
    """
    ids = inputs.get("input_ids")
    if ids is None or len(ids) != 1:
        raise _several_rows()
    if not 0 <= first < end <= ids.shape[1]:
        raise ArgumentError(f"columns {first} to {end} are not in a prompt of {ids.shape[1]} tokens.")
    if continues and (prefix is None or not first):
        raise ArgumentError(
            "a video can go on only behind a prefix that ends with it, in a call that shows its last frames again."
        )
    if continues and not decoder.family.grows:
        raise ArgumentError(
            f"{decoder.family.name} gives frames other positions when more come behind them, so a video cannot go on; "
            "begin another video, or the whole one anew."
        )
    if decoder.module.training:
        raise StateError("the model is in training mode; a prefix is for inference. Call model.eval() first.")
    return Extension(owner, prefix, first, end, continues)


class PartPrefill(Prefill):
    """The prefill of what is added to a prefix; ends at the fork."""

    def __init__(
        self, extension: Extension, fork: int, positions: Tensor, end: int, groups: Tensor | None, *args: Any
    ) -> None:
        super().__init__(*args)
        self._extension, self._fork, self._groups = extension, fork, groups
        self._positions, self._end = positions, end
        self._ids = torch.zeros(1, 0, dtype=torch.long)
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
        )

    def fills(self, cache: Any, ids: Tensor) -> None:
        """Note the cache that it fills, and the ids ``(1, n)`` of the part."""
        self._cache, self._ids = cache, ids

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
    prompt = Prompt(decoder.module.config, count, past, past_valid)
    part = PartPrefill(
        extension, settings.fork(layers, decoder.first), positions, after, groups, decoder, reduction, prompt, deepstack
    )
    assert call.input_ids is not None
    part.fills(cache, call.input_ids[:, first:end])
    extension.part = part
    changed = {
        **kwargs,
        "inputs_embeds": hidden,
        "position_ids": positions[:, None] if mrope else positions,
        "attention_mask": mask,
        **cache_argument(type(decoder.module).forward, cache),
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
    groups = next((masks.groups_of(own) for own in cut.values() if masks.is_dense(own)), None)
    return cut, groups


class TailPrefill(Prefill):
    """The prefill of the text behind a prefix: of the text alone before the fork, of all that is held behind it."""

    def __init__(self, prefix: Prefix, decoder: Decoder, reduction: Reduction, below: Prompt, prompt: Prompt) -> None:
        batch, length = reduction.columns.shape[0], reduction.length
        deepstack = None if prefix.deepstack is None else prefix.deepstack.repeated(batch, length)
        super().__init__(decoder, reduction, prompt, deepstack)
        self._prefix, self._below = prefix, below
        # (B, q): columns of the text behind the prefix.
        behind = reduction.columns[:, len(prefix.held.columns) :]
        self._words = torch.where(behind >= 0, behind - prefix.length, -1)

    def after_layer(self, index: int, hidden: Tensor) -> Tensor | None:
        return super().after_layer(index, hidden) if index >= self._prefix.fork else None

    def _staged(self, index: int, hidden: Tensor) -> Tensor:
        fork = self._prefix.fork
        if index < fork:
            received = self._received(index)
            if received is not None:
                self.reduction.attention(received)
            return hidden
        if index == fork and self._prefix.hidden is not None:
            hidden = torch.cat([self._prefix.hidden.to(hidden).expand(len(hidden), -1, -1), hidden], dim=1)
        return super()._staged(index, hidden)

    def _received(self, index: int) -> Tensor | None:
        """``(B, n)``: what each slot that is held received, of all keys of the layer before."""
        recorder = self._recorder
        received = super()._received(index)
        if received is None or recorder is None or not recorder.whole:
            return received
        # (B, N): by column, because a layer with a window holds the last ones alone.
        keys = self._keys
        by_column = torch.zeros(len(keys), self.reduction.length, dtype=received.dtype, device=received.device)
        at, padding = keys.clamp_min(0).to(received.device), (keys < 0).to(received.device)
        by_column.scatter_add_(1, at, received.masked_fill(padding, 0))
        return by_column.gather(1, self.reduction.columns.clamp_min(0).to(received.device))

    def _as_given(self, index: int, cache: Any) -> bool:
        return False

    def _sequence(self, index: int) -> tuple[Prompt, Tensor]:
        return (self._below, self._words) if index < self._prefix.fork else (self._prompt, self.reduction.columns)

    def _recorder_of(self, index: int, inputs: LayerInputs) -> recording.Recorder:
        recorder = super()._recorder_of(index, inputs)
        if index < self._prefix.fork:
            recorder.whole, self._keys = True, inputs.keys
            # The queries are the text alone.
            recorder.rows = (recorder.rows - len(self._prefix.held.columns)).clamp_min(-1)
        return recorder


def start_tail(
    decoder: Decoder, settings: FrameFusion, prefix: Prefix, hidden: Tensor, valid: Tensor, drafts: int
) -> TailPrefill:
    """Begin the prefill of the text behind a prefix.

    Args:
        decoder: that is about to run.
        settings: of the reduction.
        prefix: what is held.
        hidden: ``(B, q, D)``, the embeddings of the text.
        valid: ``(B, q)`` bool on the CPU, False for padding.
        drafts: columns at the end that are no part of the prompt.

    Raises:
        RuntimeError: the prefix was made with other settings.
    """
    if prefix.settings != settings:
        raise StateError("past_key_values goes on from a prefix that was made with other settings; make it again.")
    if not bool(valid.all()) and any(map(window_of, decoder.layers)):
        raise ArgumentError(
            "texts of several lengths follow one prefix, and the padding between would count in the windows of "
            "sliding-window layers; go on with one at a time, or with texts of one length."
        )
    reduction = Reduction.resumed(settings, prefix.held, valid, len(decoder.layers), decoder.first, drafts=drafts)
    config, past, count = decoder.module.config, prefix.length, hidden.shape[1]
    groups = None if prefix.groups is None else torch.cat([prefix.groups, torch.arange(past, past + count)])
    whole = prefix.fork < len(decoder.layers)
    past_valid = torch.ones(len(hidden), past, dtype=torch.bool)
    below = Prompt(config, count, past, past_valid, offset=past if whole else 0)
    prompt = Prompt(config, past + count, 0, None, resumed=True, groups=groups)
    return TailPrefill(prefix, decoder, reduction, below, prompt)


def positions_for(prefix: Prefix, pads: Tensor, first: int, count: int, fork_ahead: bool) -> Tensor:
    """Positions that the decoder is called with, ``(B, n)`` or ``(3, B, n)``: of the new columns, or of all of them
    where layers behind the fork are to run on all that is held.

    Args:
        prefix: of the conversation.
        pads: ``(B,)`` columns of padding behind it.
        first: first new column.
        count: of new columns.
        fork_ahead: whether that is so.
    """
    own = prefix.positions_behind(first, first + count, pads)
    if fork_ahead:
        before = prefix.positions[:, None].expand(-1, len(pads), -1)
        own = torch.cat([before, own.to(before.device)], dim=2)
    return own if len(own) > 1 else own[0]
