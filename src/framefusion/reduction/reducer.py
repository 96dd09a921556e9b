"""From hidden states and layouts to the tokens that stay: the pipeline of one prefill. Pure tensors, no model."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from framefusion.errors import ArgumentError
from framefusion.reduction import budgets, merging, relevance, segmentation, selectors
from framefusion.reduction.layout import VisualLayout
from framefusion.reduction.schedule import Plan, late_layer
from framefusion.reduction.selectors import dpp
from framefusion.reduction.selectors.candidates import Candidates, Selected
from framefusion.reduction.settings import FROM_ENCODER, WITHOUT_ATTENTION, FrameFusion

logger = logging.getLogger(__name__)

GAUSSIAN_TOKENS = 2048
"""Longest segment with the Gaussian kernel, whose greedy takes time by the square of it."""


@dataclass(frozen=True)
class Stage:
    """One stage that reduced something.

    Attributes:
        layer: it happened before this decoder layer.
        kept: per sample, int64, ascending: the columns of ``input_ids`` that are still there, text and visual;
            padding is counted but never kept.
        merged_into: per sample, int64 of the row's length, cumulative over the stages: the column that now holds
            each token (itself if it stayed), -1 if it was dropped or is padding. None until something has merged.
        milliseconds: host time of the stage. On a GPU it includes waiting for the work queued before, because the
            sizes of a stage must be known to go on.
    """

    layer: int
    kept: list[Tensor]
    merged_into: list[Tensor] | None
    milliseconds: float


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
        going_by = settings.relevance in FROM_ENCODER and not settings.keeps_all
        if going_by and encoder is None and any(map(len, layouts)):
            raise ArgumentError(
                f"relevance={settings.relevance!r} goes by the attention of the vision encoder, which was not "
                "recorded; pass it as encoder, or use another relevance."
            )
        self.settings, self._encoder = settings, encoder if going_by else None
        self.layouts = list(layouts)
        self.layers, self.first = layers, first
        self.length = valid.shape[1]
        self._of_sample = settings.of_samples(len(self.layouts))
        self.plans = [self._plans(b, layout) for b, layout in enumerate(self.layouts)]
        valid = valid.cpu()
        self.columns = torch.where(valid, torch.arange(self.length), -1)
        """``(B, n)`` int64: the column of the original row at each slot of the present sequence, -1 padding."""
        self.padded = not bool(valid.all())
        """Whether the present sequence has padding slots."""
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
        self.original_lengths: list[int] = valid.sum(1).tolist()
        """Tokens of each sample without padding."""
        self._lengths = list(self.original_lengths)
        self._present = [layout.counts for layout in self.layouts]
        self._merged_into = self.columns.clone()
        self._has_merged = False
        self._rewritten: list[tuple[int, Tensor, Tensor]] = []
        """New hidden states of tokens that stay: sample, ascending columns, features."""
        self._received: tuple[Tensor, Tensor] | None = None
        """The latest attention, ``(B, m)``, and the columns that its slots then held."""
        self._index = torch.full_like(self.columns, -1)
        for row, layout in zip(self._index, self.layouts, strict=True):
            row[layout.columns] = torch.arange(len(layout))
        self._visual = self._index >= 0
        for row, columns in zip(self._visual, seen or [], strict=False):
            row[columns] = True
        self._prompt = torch.arange(self.length) < self.length - drafts

    def _plans(self, b: int, layout: VisualLayout) -> list[Plan]:
        plans = []
        for item, tokens in enumerate(layout.counts):
            try:
                plans.append(self._of_sample[b].plan(tokens, self.layers, self.first))
            except ValueError as error:
                raise ArgumentError(f"sample {b}, {layout.kinds[item]} {item}: {error}") from error
        return plans

    @property
    def finished(self) -> bool:
        """Whether every layer has been passed."""
        return len(self.visual_per_layer) == self.layers

    @property
    def merged_into(self) -> Tensor:
        """``(B, N)`` int64: the column that holds each token by now, -1 if it was dropped or is padding."""
        return self._merged_into

    def wants_attention(self, layer: int) -> bool:
        """Whether the stage before ``layer`` may need attention, that of the latest layer which records it."""
        if self.settings.relevance in WITHOUT_ATTENTION or self._too_early(layer):
            return False
        return any(plan.wants_attention(layer) for plans in self.plans for plan in plans)

    def _too_early(self, layer: int) -> bool:
        """Whether attention tells nothing yet."""
        return self.settings.relevance == "late-text" and layer < late_layer(self.layers)

    @property
    def _whose(self) -> str:
        """Whose attention counts."""
        return _WHOSE.get(self.settings.relevance, self.settings.relevance)

    def query_rows(self) -> Tensor:
        """``(B, R)`` int64 slots of the present sequence whose attention counts, -1 for none."""
        columns = self.columns.clamp_min(0)
        asking = (self.columns >= 0) & self._prompt[columns]
        return relevance.query_rows(self._visual.gather(1, columns), asking, self._whose)

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
            self._received = self.columns, received
        # Similarities and kernels are computed in float32 whatever the caller's autocast says.
        with torch.autocast(hidden.device.type, enabled=False):
            if layer == 0 and not self.settings.keeps_all:
                self.segments = [
                    self._segments(_rows(hidden[b], layout.columns), layout) for b, layout in enumerate(self.layouts)
                ]
            if any(plan.wants_merges(layer) for plans in self.plans for plan in plans):
                hidden = hidden.clone()
            slots = [self._reduce_sample(b, layer, hidden) for b in range(len(hidden))]
        if any(kept is not None for kept in slots):
            hidden = self._shorten(hidden, slots)
            for b, columns, features in self._rewritten:
                # Padding, -1, lies before the columns, which ascend.
                places = torch.searchsorted(self.columns[b], columns)
                hidden[b, places.to(hidden.device)] = features
            self._rewritten.clear()
            self.stages.append(self._record(layer, (time.perf_counter() - started) * 1e3))
        self.tokens_per_layer.append(list(self._lengths))
        self.visual_per_layer.append(sum(map(sum, self._present)))
        return hidden

    def _segments(self, features: Tensor, layout: VisualLayout) -> Tensor:
        """Segment id of each visual token of one sample; ids go on across its items."""
        result, first = torch.zeros_like(layout.item), 0
        on_device = layout.to(features.device)
        for item, (frames, _, _) in enumerate(layout.grids):
            mine = layout.item == item
            tokens = mine.nonzero().squeeze(-1)
            frame, patch = _rows(on_device.frame, tokens), _rows(on_device.patch, tokens)
            of_frame = self._cut(frames, _rows(features, tokens), frame, patch)
            if self.settings.gaussian and self.settings.segmentation != "single":
                sizes = torch.bincount(layout.frame[mine], minlength=frames)
                of_frame = segmentation.no_longer_than(of_frame, sizes, GAUSSIAN_TOKENS)
            result[mine] = of_frame[layout.frame[mine]] + first
            first += int(of_frame.max()) + 1 if frames else 0
        return result

    def _cut(self, frames: int, features: Tensor, frame: Tensor, patch: Tensor) -> Tensor:
        """``(frames,)`` segment ids of one video or image, on the CPU."""
        settings = self.settings
        threshold = settings.segment_threshold
        if settings.segmentation == "single":
            return segmentation.one_segment(frames)
        if settings.segmentation == "frames":
            return segmentation.each_frame(frames)
        if settings.segmentation == "windows":
            return segmentation.fixed_windows(frames, settings.segment_window)
        assert threshold is not None
        if settings.segmentation == "dyseg":
            weakest = segmentation.transitions(features, frame).cpu()
            return segmentation.by_transitions(weakest, settings.segment_minimum, threshold)
        if settings.segmentation == "dp":
            return segmentation.by_redundancy(features, frame, patch, threshold)
        scores = segmentation.frame_scores(features, frame, patch, settings.similarity_lower_bound)
        return segmentation.by_frame_similarity(scores.cpu(), threshold)

    def _reduce_sample(self, b: int, layer: int, hidden: Tensor) -> Tensor | None:
        """One sample's stage: writes merged tokens into ``hidden`` and returns the slots that stay; None when all
        of them do."""
        staying, moved = self.columns[b] >= 0, torch.arange(self.length)
        changed, weights = False, None
        for item, plan in enumerate(self.plans[b]):
            present = self._present[b][item]
            candidates = self._similar(b, item, hidden) if plan.wants_merges(layer) else None
            step = plan.step(layer, present, 0 if candidates is None else candidates.mergeable)
            logger.debug("before layer %d, sample %d, item %d: %d tokens, %s", layer, b, item, present, step)
            if not step.merge and step.keep is None:
                continue
            slots = self._slots(b, item)
            columns = self.columns[b]
            if step.merge and candidates is not None:
                chosen = merging.choose_merges(candidates.similarity, self.settings.similarity_lower_bound, step.merge)
                merged = merging.merge_runs(
                    hidden[b, slots.to(hidden.device)],
                    candidates.previous.to(hidden.device),
                    chosen.to(hidden.device),
                )
                moved[columns[slots]] = columns[slots[merged.target.cpu()]]
                staying[slots[chosen]] = False
                slots = slots[merged.kept.cpu()]
                hidden[b, slots.to(hidden.device)] = merged.features
                self._has_merged = changed = True
            if step.keep is not None:
                if weights is None:
                    weights = self._relevance(b, layer, hidden)
                selected, rewritten, features = self._prune(b, item, layer, hidden, slots, step.keep, weights)
                if len(rewritten):
                    self._rewritten.append((b, columns[slots[rewritten]], features))
                gone = torch.ones(len(slots), dtype=torch.bool)
                gone[selected.indices] = False
                moved[columns[slots[gone]]] = -1
                if selected.target is not None:
                    into = selected.target[gone]
                    moved[columns[slots[gone]]] = torch.where(into >= 0, columns[slots[into.clamp_min(0)]], -1)
                    self._has_merged = self._has_merged or bool(gone.any())
                staying[slots[gone]] = False
                slots = slots[~gone]
                changed = changed or bool(gone.any()) or len(rewritten) > 0
            self._present[b][item] = len(slots)
        if not changed:
            return None
        # A token may merge into one that is pruned, or merges in turn, in the same stage: follow once more.
        moved = torch.where(moved >= 0, moved[moved.clamp_min(0)], -1)
        into = self._merged_into[b]
        self._merged_into[b] = torch.where(into >= 0, moved[into.clamp_min(0)], -1)
        return staying.nonzero().squeeze(-1)

    def _visual_slots(self, b: int) -> tuple[Tensor, Tensor]:
        """The slots of one sample that hold visual tokens, and which token of the layout each one holds."""
        columns = self.columns[b]
        index = torch.where(columns >= 0, self._index[b, columns.clamp_min(0)], -1)
        slots = (index >= 0).nonzero().squeeze(-1)
        return slots, index[slots]

    def _slots(self, b: int, item: int) -> Tensor:
        """The slots of one item's present tokens."""
        slots, tokens = self._visual_slots(b)
        return slots[self.layouts[b].item[tokens] == item]

    def _similar(self, b: int, item: int, hidden: Tensor) -> _Similar:
        """How similar one item's present tokens are to their predecessors."""
        slots = self._slots(b, item)
        layout, tokens = self.layouts[b], self._index[b, self.columns[b, slots]]
        previous = merging.previous_at_same_patch(layout.frame[tokens], layout.patch[tokens])
        similarity = merging.previous_similarity(hidden[b, slots.to(hidden.device)], previous.to(hidden.device)).cpu()
        mergeable = int((similarity >= self.settings.similarity_lower_bound).sum())
        return _Similar(previous, similarity, mergeable)

    def _attention(self, b: int) -> Tensor | None:
        """``(n,)`` attention that one sample's slots received where it was last recorded; a merged token has that of
        the one it merged into. None before any was."""
        if self._received is None:
            return None
        columns, received = self._received
        if columns is self.columns:
            return received[b]
        held = columns[b] >= 0
        slot_of = torch.zeros(self.length, dtype=torch.long)
        slot_of[columns[b, held]] = held.nonzero().squeeze(-1)
        return received[b, slot_of[self.columns[b].clamp_min(0)].to(received.device)]

    def _relevance(self, b: int, layer: int, hidden: Tensor) -> Tensor | None:
        """``(n,)`` relevance of one sample's slots, of its visual tokens; None where there is none to go by."""
        which, sign = self.settings.relevance, self.settings.relevance_sign
        if which == "none" or self._too_early(layer):
            return None
        visual, tokens = self._visual_slots(b)
        visual = visual.to(hidden.device)
        if which == "similarity":
            columns = self.columns[b : b + 1].clamp_min(0)
            asking = (self.columns[b : b + 1] >= 0) & self._prompt[columns]
            rows = relevance.query_rows(self._visual[b : b + 1].gather(1, columns), asking, "text")[0]
            scores = relevance.question_similarity(hidden[b, visual], hidden[b, rows[rows >= 0].to(hidden.device)])
        elif which == "dissimilarity":
            layout = self.layouts[b]
            places = layout.patch + layout.item * (int(layout.patch.max()) + 1 if len(layout) else 1)
            scores = relevance.dissimilarity(hidden[b, visual], layout.frame[tokens], places[tokens])
        elif self._encoder is not None and (which == "encoder" or self._received is None):
            scores = self._encoder[b].to(hidden.device)[tokens.to(hidden.device)]
        else:
            received = self._attention(b)
            if received is None:
                return None
            scores = received.to(hidden.device)[visual]
        scaled = relevance.min_max(scores, sign, self.settings.relevance_exponent)
        weights = torch.zeros(hidden.shape[1], dtype=scaled.dtype, device=hidden.device)
        weights[visual] = scaled
        return weights

    def _prune(
        self, b: int, item: int, layer: int, hidden: Tensor, slots: Tensor, total: int, weights: Tensor | None
    ) -> tuple[Selected, Tensor, Tensor]:
        """Which of ``slots``, the item's present tokens, stay, and where the rest goes; ``total`` of them stay, or
        fewer with adaptive settings. Then those that change, ``(R,)`` int64 ascending on the CPU, and their ``(R, D)``
        new hidden states."""
        assert self.segments is not None
        settings, features = self.settings, _rows(hidden[b], slots)
        layout, tokens = self.layouts[b], self._index[b, self.columns[b, slots]]
        candidates = Candidates(
            features,
            None if weights is None else _rows(weights, slots),
            self.segments[b][tokens],
            layout.frame[tokens],
            layout.patch[tokens],
            layout.grids[item],
            {},
            settings.seed,
            settings.dropped_lower_bound if settings.dropped == "merge" else None,
            settings.gamma,
            settings.later_frames,
            layer,
        )
        # The budget of a single segment is no question.
        joint = settings.budget_rule == "joint" and bool((candidates.segments != candidates.segments[:1]).any())
        asked = None if joint else self._budgets(candidates, total)
        if asked is None or settings.novelty_lower_bound is not None:
            at_least = min(total, budgets.total_kept(settings.keep_lower_bound, layout.counts[item]))
            wanted = total if asked is None else asked
            chosen = dpp.select_within(candidates, wanted, settings.novelty_lower_bound, at_least)
            selected = Selected(chosen.cpu().sort().values)
        else:
            selected = selectors.select(settings.selector, candidates._replace(budgets=asked))
        if settings.dropped == "merge" and selected.target is None and selected.features is None:
            kept = torch.zeros(len(slots), dtype=torch.bool)
            kept[selected.indices] = True
            bound = settings.dropped_lower_bound
            selected = Selected(selected.indices, merging.most_similar_kept(features, candidates.segments, kept, bound))
        if selected.features is not None:
            return selected, selected.indices, selected.features
        if selected.target is None:
            return selected, selected.indices[:0], features[:0]
        rewritten, means = merging.group_means(features, selected.target.to(features.device))
        return selected, rewritten.cpu(), means

    def _budgets(self, candidates: Candidates, total: int) -> dict[int, int]:
        """What each segment keeps of ``total``."""
        features = candidates.features
        ids, compact, lengths = candidates.segments.unique(return_inverse=True, return_counts=True)
        if self.settings.budget_rule == "marginal-value":
            sums = torch.zeros(len(ids), features.shape[1], dtype=torch.float32, device=features.device)
            sums.index_add_(0, compact.to(features.device), features.float())
            counts = budgets.marginal_value(sums.cpu() / lengths[:, None], lengths.tolist(), total)
        else:
            counts = budgets.uniform(lengths.tolist(), total)
        return dict(zip(ids.tolist(), counts, strict=True))

    def _shorten(self, hidden: Tensor, slots: Sequence[Tensor | None]) -> Tensor:
        """Gather the slots that stay, aligned to the right."""
        kept = [
            (row >= 0).nonzero().squeeze(-1) if s is None else s for row, s in zip(self.columns, slots, strict=True)
        ]
        self._lengths = [len(s) for s in kept]
        longest = max(self._lengths)
        index = torch.zeros(len(kept), longest, dtype=torch.long)
        columns = torch.full_like(index, -1)
        for b, s in enumerate(kept):
            index[b, longest - len(s) :] = s
            columns[b, longest - len(s) :] = self.columns[b, s]
        self.columns, self.reduced = columns, True
        self.padded = min(self._lengths) < longest
        # Whole rows at a time: a gather would read an index for every number.
        flat = index + hidden.shape[1] * torch.arange(len(kept))[:, None]
        return hidden.flatten(0, 1).index_select(0, flat.flatten().to(hidden.device)).unflatten(0, index.shape)

    def _record(self, layer: int, milliseconds: float) -> Stage:
        into = list(self._merged_into.clone()) if self._has_merged else None
        return Stage(layer, [row[row >= 0] for row in self.columns], into, milliseconds)


_WHOSE = {"encoder-last": "last", "late-text": "text"}
"""Whose attention counts for kinds of relevance with names of their own."""


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """The rows of ``x`` at ascending positions on the CPU: a view where they are consecutive, as one video's are."""
    if len(index) and int(index[-1]) - int(index[0]) == len(index) - 1:
        return x[int(index[0]) : int(index[-1]) + 1]
    return x[index.to(x.device)]


class _Similar(NamedTuple):
    """One item's candidates for merging, on the CPU."""

    previous: Tensor
    similarity: Tensor
    mergeable: int
