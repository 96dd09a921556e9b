"""The prefill of the text behind a prefix."""

from __future__ import annotations

import torch
from torch import Tensor

from framefusion.errors import ArgumentError, StateError
from framefusion.hf import recording
from framefusion.hf.decoder import Decoder, window_of
from framefusion.hf.inputs import LayerInputs, Prompt
from framefusion.hf.prefill import Prefill
from framefusion.hf.prefix import Prefix
from framefusion.reduction.reducer import Reduction
from framefusion.reduction.settings import FrameFusion


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

    def _as_given(self, index: int, cache: object) -> bool:
        return False

    def _sequence(self, index: int) -> tuple[Prompt, Tensor]:
        return (self._below, self._words) if index < self._prefix.fork else (self._prompt, self.reduction.columns)

    def _own_rows(self, index: int, given: Tensor) -> Tensor:
        held, before = self._prefix.held.columns, self._prefix.per_layer
        if index < self._prefix.fork or before is None:
            return given
        rows = given.new_zeros(len(given), self.reduction.length, given.shape[2])
        rows[:, held.to(given.device)] = before[:, :, index - self._prefix.fork].to(given)
        rows[:, self._prefix.length :] = given
        return rows

    def _recorder_of(self, index: int, inputs: LayerInputs) -> recording.Recorder:
        recorder = super()._recorder_of(index, inputs)
        if index < self._prefix.fork:
            recorder.whole = True
            # The queries are the text alone.
            recorder.rows = (recorder.rows - len(self._prefix.held.columns)).clamp_min(-1)
        return recorder


def start_tail(
    decoder: Decoder,
    settings: FrameFusion,
    prefix: Prefix,
    hidden: Tensor,
    valid: Tensor,
    drafts: int,
    ids: Tensor | None,
) -> TailPrefill:
    """Begin the prefill of the text behind a prefix.

    Args:
        decoder: that is about to run.
        settings: of the reduction.
        prefix: what is held.
        hidden: ``(B, q, D)``, the embeddings of the text.
        valid: ``(B, q)`` bool on the CPU, False for padding.
        drafts: columns at the end that are no part of the prompt.
        ids: ``(B, q)`` int64, of the text; None where the call had none.

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
    below = Prompt(config, count, past, past_valid, offset=past if whole else 0, ids=ids)
    within = decoder.family.groups_in_windows
    all_ids = None if ids is None else torch.cat([prefix.ids.to(ids).expand(len(ids), -1), ids], dim=1)
    prompt = Prompt(config, past + count, 0, None, resumed=True, groups=groups, within=within, ids=all_ids)
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
