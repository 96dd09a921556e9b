"""From hidden states and layouts to the tokens that stay: the pipeline of one prefill. Pure tensors, no model."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from framefusion.errors import ArgumentError
from framefusion.reduction import relevance, segmentation
from framefusion.reduction.held import Held, Stage, extended
from framefusion.reduction.layout import VisualLayout, rows_at
from framefusion.reduction.merging import Absorb
from framefusion.reduction.present import Present, Visual
from framefusion.reduction.rules import rule_of
from framefusion.reduction.schedule import Plan, Step, late_layer
from framefusion.reduction.selectors.candidates import Candidates
from framefusion.reduction.selectors.dpp import GAUSSIAN_TOKENS
from framefusion.reduction.settings import FrameFusion
from framefusion.reduction.sources import Evidence
from framefusion.reduction.stages import Change, Similar, followed, merge_stage, prune_stage

logger = logging.getLogger(__name__)


class Reduction:
    """The reduction of one prefill, asked once before every decoder layer, in order.

    All bookkeeping is on the CPU, wherever the layers are: sizes must be known there to go on, and the layers of a
    model may be on several devices.

    Args:
        settings: what to do.
        layouts: the visual tokens of each sample, on the CPU.
        valid: ``(B, N)`` bool, False for padding.
        layers: decoder layers of the model.
        first: the first layer before which attention exists, see :mod:`framefusion.reduction.schedule`.
        seen: per sample the columns of all visual tokens, those that are left alone included; default those of the
            layouts. No text, whoever asks for it.
        drafts: columns at the end that are no part of the prompt, so that no attention of theirs counts.
        encoder: per sample ``(N_visual,)``, in the order of the layout: the attention that each visual token received
            in the vision encoder. Needed where the settings go by it.

    Raises:
        ValueError: a video cannot reach the cost of the settings, or the encoder's attention is missing.
    """

    def __init__(
        self,
        settings: FrameFusion,
        layouts: Sequence[VisualLayout],
        valid: Tensor,
        layers: int,
        first: int = 1,
        *,
        seen: Sequence[Tensor] | None = None,
        drafts: int = 0,
        encoder: Sequence[Tensor] | None = None,
    ) -> None:
        self.settings, self._source = settings, settings.relevance.of
        going_by = self._source.encoder and not settings.keeps_all
        if going_by and encoder is None and any(map(len, layouts)):
            raise ArgumentError(
                f"relevance={settings.relevance.source!r} goes by the attention of the vision encoder, which was not "
                "recorded; pass it as encoder, or use another relevance."
            )
        self._encoder = encoder if going_by else None
        self.layouts = list(layouts)
        self.layers, self.length, self._first = layers, valid.shape[1], first
        self._plans = _plans(settings, self.layouts, layers, first)
        self._present = Present.whole(self.layouts, valid.cpu())
        self.reduced = False
        """Whether the present sequence differs from the original one."""
        self.stages: list[Stage] = []
        self.segments: list[Tensor] | None = None
        """Per sample ``(N_visual,)`` int64 segment ids in the order of the layout; None before layer 0 and when
        nothing is to be reduced."""
        self.visual_per_layer: list[int] = []
        """Per layer, the visual tokens present in the whole batch."""
        self.tokens_per_layer: list[list[int]] = []
        """Per layer, the length of each sample's present sequence without padding."""
        self.original_lengths = self._present.lengths
        """Tokens of each sample without padding."""
        self.visual_tokens = sum(map(len, self.layouts))
        """Visual tokens of the whole batch, those that are no longer counted too."""
        self.merged_into = self._present.columns.clone()
        """``(B, N)`` int64: the column that holds each token by now, -1 if it was dropped or is padding."""
        self._received: tuple[Present, Tensor] | None = None
        """The latest attention, ``(B, m)``, and the sequence that its slots are of."""
        self._visual = self._present.token_at >= 0
        for row, columns in zip(self._visual, seen or [], strict=False):
            row[columns] = True
        self._last = torch.where(self._visual, torch.arange(self.length), -1).amax(1, keepdim=True)
        """``(B, 1)`` int64: the column of the last visual token; -1 without any."""
        self._prompt = torch.arange(self.length) < self.length - drafts

    @classmethod
    def resumed(
        cls,
        settings: FrameFusion,
        held: Held,
        behind: Tensor,
        layers: int,
        first: int = 1,
        *,
        drafts: int = 0,
    ) -> Reduction:
        """The reduction of samples that all begin with what is held, from the layer on that its stages reached.

        Args:
            settings: those that it was held by.
            held: the beginning.
            behind: ``(B, q)`` bool on the CPU: the columns behind it, False for padding.
            layers: as for :class:`Reduction`.
            first: likewise.
            drafts: likewise.
        """
        batch, length = behind.shape[0], held.length
        valid = torch.cat([torch.ones(batch, length, dtype=torch.bool), behind], dim=1)
        encoder = None if held.encoder is None else [held.encoder] * batch
        layouts, seen = [held.layout] * batch, [held.seen] * batch
        made = cls(settings, layouts, valid, layers, first, seen=seen, drafts=drafts, encoder=encoder)
        own = torch.where(behind, torch.arange(length, valid.shape[1]), -1)
        made._present = replace(made._present, columns=torch.cat([held.columns.expand(batch, -1), own], dim=1))
        made.merged_into = torch.cat([held.merged_into.expand(batch, -1), own], dim=1)
        made.segments = None if held.segments is None else [held.segments] * batch
        made.reduced = len(held.columns) < length
        made.stages = extended(held.stages, length, behind)
        made.original_lengths = [count + held.uncounted[1] for count in made.original_lengths]
        made.visual_tokens += batch * held.uncounted[0]
        made.visual_per_layer = [batch * count for count in held.visual_per_layer]
        words = behind.sum(1).tolist()
        made.tokens_per_layer = [[count + own for own in words] for count in held.tokens_per_layer]
        made._plans = [made._plans_of(b, held) for b in range(batch)]
        return made

    def _plans_of(self, b: int, held: Held) -> list[Plan]:
        """The plans of what is held, as far as they were asked; new ones where something came or went."""
        own, plans = self.settings.of_samples(len(self._plans))[b], []
        for plan, budget in zip(held.plans, held.budgets, strict=True):
            made = own.plan(max(1, round(budget)), self.layers, self._first) if plan is None else deepcopy(plan)
            plans.append(made)
        return plans

    def held(self) -> Held:
        """What is there of the first sample, before the layer that comes next."""
        layout = self.layouts[0]
        return Held(
            self.length,
            layout,
            self._visual[0].nonzero().squeeze(-1),
            self.columns[0][self.columns[0] >= 0],
            None if self.segments is None else self.segments[0],
            self.merged_into[0],
            tuple(self.stages),
            tuple(deepcopy(self._plans[0])),
            tuple(map(float, layout.counts)),
            None if self._encoder is None else self._encoder[0],
            tuple(self.visual_per_layer),
            tuple(lengths[0] for lengths in self.tokens_per_layer),
        )

    @property
    def columns(self) -> Tensor:
        """``(B, n)`` int64: the column of the original row at each slot of the present sequence, -1 padding."""
        return self._present.columns

    @property
    def padded(self) -> bool:
        """Whether the present sequence has padding slots."""
        return self._present.padded

    @property
    def finished(self) -> bool:
        """Whether every layer has been passed."""
        return len(self.visual_per_layer) == self.layers

    def wants_attention(self, layer: int) -> bool:
        """Whether the stage before ``layer`` may need attention, that of the latest layer which records it."""
        if self._source.viewers is None or self._too_early(layer):
            return False
        return any(plan.wants_attention(layer) for plans in self._plans for plan in plans)

    def over(self, layer: int) -> bool:
        """Whether no stage can come behind the one before ``layer``, from layer 1 on."""
        later = range(layer + 1, self.layers)
        return not any(
            plan.wants_merges(other) or plan.wants_attention(other)
            for plans in self._plans
            for plan in plans
            for other in later
        )

    def _too_early(self, layer: int) -> bool:
        """Whether attention tells nothing yet."""
        return self._source.late and layer < late_layer(self.layers)

    def attention(self, received: Tensor) -> None:
        """Note the attention ``(B, n)`` that each slot of the present sequence received, for the stages that follow."""
        self._received = self._present, received

    def query_rows(self) -> Tensor:
        """``(B, R)`` int64 slots of the present sequence whose attention counts, -1 for none."""
        assert self._source.viewers is not None
        return self._rows_of(self._source.viewers, slice(None))

    def _rows_of(self, viewers: str, samples: slice) -> Tensor:
        """``(B, R)`` int64 slots of some query rows, see :func:`framefusion.reduction.relevance.query_rows`."""
        held = self.columns[samples]
        columns = held.clamp_min(0)
        asking = (held >= 0) & self._prompt[columns]
        # Words between frames are no question, whether or not the frames behind them have been dropped.
        return relevance.query_rows(columns <= self._last[samples], asking, viewers)

    def before_layer(self, layer: int, hidden: Tensor, received: Tensor | None = None) -> Tensor:
        """Run the stage before ``layer``, if there is one.

        Args:
            layer: the decoder layer about to run.
            hidden: ``(B, n, D)`` hidden states of the present sequence; left unchanged.
            received: ``(B, n)`` attention that each slot received in the layer before; None when none was recorded
                there, and the latest that was counts.

        Returns:
            ``(B, n', D)`` hidden states of the sequence that goes on; ``hidden`` itself when nothing changed.
            Samples of different lengths are aligned to the right.
        """
        started = time.perf_counter()
        if received is not None:
            self.attention(received)
        # Similarities and kernels are computed in float32 whatever the caller's autocast says.
        with torch.autocast(hidden.device.type, enabled=False):
            if layer == 0 and not self.settings.keeps_all:
                self.segments = [self._segments(b, hidden[b]) for b in range(len(hidden))]
            changes = [self._reduce_sample(b, layer, hidden[b]) for b in range(len(hidden))]
        if any(changes):
            hidden = self._apply(hidden, changes)
            self.stages.append(self._record(layer, (time.perf_counter() - started) * 1e3))
        self.tokens_per_layer.append(self._present.lengths)
        self.visual_per_layer.append(sum(map(sum, self._present.counts)))
        return hidden

    def _segments(self, b: int, hidden: Tensor) -> Tensor:
        """``(N_visual,)`` segment id of each visual token of one sample, all of which are present."""
        layout, settings = self.layouts[b], self.settings
        cut = settings.gaussian and settings.segmentation != "single"
        features = rows_at(hidden, self._present.visual(b).slots)
        rule = rule_of(settings.segmentation, segmentation.SEGMENTATIONS)
        return segmentation.of_tokens(features, layout, rule, GAUSSIAN_TOKENS if cut else None)

    def _reduce_sample(self, b: int, layer: int, hidden: Tensor) -> list[tuple[Tensor, Change]]:
        """One sample's stage: first all of its items merge, then they are pruned.

        Args:
            b: the sample.
            layer: the stage lies before it.
            hidden: ``(n, D)``, left unchanged.

        Returns:
            What changes: the columns of an item's tokens and what happens to them, in turn.
        """
        steps = [self._step(b, item, layer, hidden) for item in range(len(self._plans[b]))]
        if not any(step.merge or step.keep is not None for step, _ in steps):
            return []
        changes: list[tuple[Tensor, Change]] = []
        visual = self._present.visual(b)
        features = rows_at(hidden, visual.slots)
        # Positions among the sample's visual tokens, of each item.
        mine = [(visual.items == item).nonzero().squeeze(-1) for item in range(len(steps))]
        for item, (step, similar) in enumerate(steps):
            if step.merge and similar is not None:
                own = mine[item]
                change = merge_stage(rows_at(features, own), similar, step.merge)
                changes.append((visual.columns[own], change.at(visual.columns[own])))
                features = features.index_copy(0, own[change.rewritten].to(features.device), change.features)
                mine[item] = own[change.stays]
        prunes = [(item, step.keep) for item, (step, _) in enumerate(steps) if step.keep is not None]
        weights = self._relevance(b, layer, visual, features, hidden) if prunes else None
        for item, keep in prunes:
            own = mine[item]
            relevant = None if weights is None else rows_at(weights, own)
            change = self._prune(b, item, layer, visual.tokens[own], rows_at(features, own), relevant, keep)
            if len(change.rewritten) or not bool(change.stays.all()):
                changes.append((visual.columns[own], change.at(visual.columns[own])))
        return changes

    def _step(self, b: int, item: int, layer: int, hidden: Tensor) -> tuple[Step, Similar | None]:
        """What an item's plan says, and how similar its tokens are where they may merge."""
        plan, present, similar = self._plans[b][item], self._present.counts[b][item], None
        if plan.wants_merges(layer):
            visual, layout = self._present.visual(b), self.layouts[b]
            own = visual.items == item
            tokens, features = visual.tokens[own], rows_at(hidden, visual.slots[own])
            assert self.settings.merging is not None
            bound = self.settings.merging.similarity_lower_bound
            similar = Similar.of(features, layout.frame[tokens], layout.patch[tokens], bound)
        step = plan.step(layer, present, 0 if similar is None else similar.mergeable)
        logger.debug("before layer %d, sample %d, item %d: %d tokens, %s", layer, b, item, present, step)
        return step, similar

    def _relevance(self, b: int, layer: int, visual: Visual, features: Tensor, hidden: Tensor) -> Tensor | None:
        """``(n,)`` relevance of one sample's visual tokens; None where there is none to go by."""
        if self._too_early(layer):
            return None
        layout, tokens, device = self.layouts[b], visual.tokens, features.device
        places = layout.patch + layout.item * (int(layout.patch.max()) + 1 if len(layout) else 1)
        asking = self._rows_of("text", slice(b, b + 1))[0]
        scores = self._source.scores(
            Evidence(
                features,
                layout.frame[tokens],
                places[tokens],
                hidden[asking[asking >= 0].to(device)],
                None if self._received is None else self._attention(b, visual.columns).to(device),
                None if self._encoder is None else self._encoder[b].to(device)[tokens.to(device)],
            )
        )
        if scores is None:
            return None
        return relevance.min_max(scores, self.settings.relevance.sign, self.settings.relevance.exponent)

    def _attention(self, b: int, columns: Tensor) -> Tensor:
        """``(n,)`` attention that some columns received where it was last recorded; a merged token has that of the one
        it merged into."""
        assert self._received is not None
        then, received = self._received
        return received[b, then.slots_of(b, columns).to(received.device)]

    def _prune(
        self, b: int, item: int, layer: int, tokens: Tensor, features: Tensor, weights: Tensor | None, total: int
    ) -> Change:
        """The pruning of one item to ``total`` tokens, or fewer with adaptive settings."""
        assert self.segments is not None
        settings, layout = self.settings, self.layouts[b]
        candidates = Candidates(
            features,
            weights,
            self.segments[b][tokens],
            layout.frame[tokens],
            layout.patch[tokens],
            layout.grids[item],
            {},
            settings.seed,
            settings.dropped.lower_bound if isinstance(settings.dropped, Absorb) else None,
            layer,
        )
        return prune_stage(candidates, total, layout.counts[item], settings)

    def _apply(self, hidden: Tensor, changes: Sequence[Sequence[tuple[Tensor, Change]]]) -> Tensor:
        """The hidden states after the changes of a stage, and the bookkeeping."""
        moved = torch.stack([followed(own, self.length) for own in changes])
        into = self.merged_into
        self.merged_into = torch.where(into >= 0, moved.gather(1, into.clamp_min(0)), -1)
        self._present, origin = self._present.only(moved == torch.arange(self.length))
        self.reduced = True
        # Whole rows at a time: a gather would read an index for every number.
        flat = origin + hidden.shape[1] * torch.arange(len(origin))[:, None]
        hidden = hidden.flatten(0, 1).index_select(0, flat.flatten().to(hidden.device)).unflatten(0, origin.shape)
        for b, own in enumerate(changes):
            for _, change in own:
                left = (moved[b, change.rewritten] == change.rewritten).nonzero().squeeze(-1)
                if len(left):
                    slots = self._present.slots_of(b, change.rewritten[left])
                    hidden[b, slots.to(hidden.device)] = rows_at(change.features, left)
        return hidden

    def _record(self, layer: int, milliseconds: float) -> Stage:
        merged = (self.merged_into >= 0) & (self.merged_into != torch.arange(self.length))
        into = list(self.merged_into) if bool(merged.any()) else None
        return Stage(layer, [row[row >= 0] for row in self.columns], into, milliseconds)


def _plans(settings: FrameFusion, layouts: Sequence[VisualLayout], layers: int, first: int) -> list[list[Plan]]:
    """By sample, a plan for each video and image."""
    found: list[list[Plan]] = []
    for b, (own, layout) in enumerate(zip(settings.of_samples(len(layouts)), layouts, strict=True)):
        found.append([])
        for item, tokens in enumerate(layout.counts):
            try:
                found[b].append(own.plan(tokens, layers, first))
            except ValueError as error:
                raise ArgumentError(f"sample {b}, {layout.kinds[item]} {item}: {error}") from error
    return found
