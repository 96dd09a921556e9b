"""From hidden states and layouts to the tokens that stay: the pipeline of one prefill. Pure tensors, no model."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from framefusion import budgets, merging, relevance, segmentation
from framefusion.layout import VisualLayout
from framefusion.schedule import Plan
from framefusion.selectors import SELECTORS
from framefusion.settings import FrameFusion

logger = logging.getLogger(__name__)


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

    Args:
        settings: what to do.
        layouts: the visual tokens of each sample.
        valid: ``(B, N)`` bool, False for padding.
        layers: decoder layers of the model.

    Raises:
        ValueError: a video cannot reach the cost of the settings.
    """

    def __init__(self, settings: FrameFusion, layouts: Sequence[VisualLayout], valid: Tensor, layers: int) -> None:
        self.settings = settings
        self.layouts = [layout.to(valid.device) for layout in layouts]
        self.length = valid.shape[1]
        self.plans: list[list[Plan]] = [
            [settings.plan(t * h * w, layers) for t, h, w in layout.grids] for layout in layouts
        ]
        self.columns = torch.where(valid, torch.arange(self.length, device=valid.device), -1)
        """``(B, n)`` int64: the column of the original row at each slot of the present sequence, -1 padding."""
        self.padded = not bool(valid.all())
        """Whether the present sequence has padding slots."""
        self.reduced = False
        """Whether the present sequence differs from the original one."""
        self.stages: list[Stage] = []
        self.segments: list[Tensor] | None = None
        """Per sample ``(N_visual,)`` int64 segment ids in the order of the layout; None before layer 0
        and when nothing is to be reduced."""
        self.visual_per_layer: list[int] = []
        self.tokens_per_layer: list[list[int]] = []
        """Per layer, the length of each sample's present sequence without padding."""
        self.original_lengths: list[int] = valid.sum(1).tolist()
        """Tokens of each sample without padding."""
        self._lengths = list(self.original_lengths)
        self._visual = [len(layout) for layout in layouts]
        self._merged_into = self.columns.clone()
        self._has_merged = False
        self._index = torch.full_like(self.columns, -1)
        for row, layout in zip(self._index, self.layouts, strict=True):
            row[layout.columns] = torch.arange(len(layout), device=row.device)

    def wants_attention(self, layer: int) -> bool:
        """Whether the attention of layer ``layer - 1`` may be needed by the stage before ``layer``."""
        if self.settings.relevance == "none":
            return False
        return any(plan.wants_attention(layer) for plans in self.plans for plan in plans)

    def query_rows(self) -> Tensor:
        """``(B, R)`` int64 slots of the present sequence whose attention counts, -1 for none."""
        index = self._index.gather(1, self.columns.clamp_min(0))
        return relevance.query_rows(index >= 0, self.columns >= 0, self.settings.relevance)

    def before_layer(self, layer: int, hidden: Tensor, received: Tensor | None = None) -> Tensor:
        """Run the stage before ``layer``, if there is one.

        Args:
            layer: the decoder layer about to run.
            hidden: ``(B, n, D)`` hidden states of the present sequence; left unchanged.
            received: ``(B, n)`` attention that each slot received in the layer before, or None.

        Returns:
            ``(B, n', D)`` hidden states of the sequence that goes on; ``hidden`` itself when nothing changed.
            Samples of different lengths are aligned to the right.
        """
        started = time.perf_counter()
        if layer == 0 and not self.settings.keeps_all:
            self.segments = [self._segments(hidden[b, layout.columns], layout) for b, layout in enumerate(self.layouts)]
        slots: list[Tensor] = []
        changed = False
        if any(plan.wants_merges(layer) for plans in self.plans for plan in plans):
            hidden = hidden.clone()
        for b in range(len(hidden)):
            slots.append(self._reduce_sample(b, layer, hidden, None if received is None else received[b]))
            changed |= len(slots[b]) < self._lengths[b]
        if changed:
            hidden = self._shorten(hidden, slots)
            self.stages.append(self._record(layer, (time.perf_counter() - started) * 1e3))
        self.tokens_per_layer.append(list(self._lengths))
        self.visual_per_layer.append(sum(self._visual))
        return hidden

    def _segments(self, features: Tensor, layout: VisualLayout) -> Tensor:
        """Segment id of each visual token of one sample; ids go on across its videos."""
        settings, result, first = self.settings, torch.zeros_like(layout.video), 0
        for video, (frames, _, _) in enumerate(layout.grids):
            mine = layout.video == video
            if settings.segmentation == "single":
                of_frame = segmentation.one_segment(frames)
            elif settings.segmentation == "windows":
                of_frame = segmentation.fixed_windows(frames, settings.segment_window)
            else:
                scores = segmentation.frame_scores(
                    features[mine], layout.frame[mine], layout.patch[mine], settings.similarity_lower_bound
                )
                of_frame = segmentation.by_frame_similarity(scores, settings.segment_threshold)
            result[mine] = of_frame.to(result.device)[layout.frame[mine]] + first
            first += int(of_frame.max()) + 1 if frames else 0
        return result

    def _reduce_sample(self, b: int, layer: int, hidden: Tensor, received: Tensor | None) -> Tensor:
        """One sample's stage: writes merged tokens into ``hidden`` and returns the slots that stay."""
        layout, columns = self.layouts[b], self.columns[b]
        index = torch.where(columns >= 0, self._index[b].gather(0, columns.clamp_min(0)), -1)
        visual_slots = (index >= 0).nonzero().squeeze(-1)
        weight = None
        if received is not None and self.settings.relevance != "none":
            weight = torch.zeros_like(received)
            weight[visual_slots] = relevance.min_max(received[visual_slots], self.settings.relevance_sign)
        staying = columns >= 0
        moved = torch.arange(self.length, device=columns.device)
        for video, plan in enumerate(self.plans[b]):
            slots = visual_slots[layout.video[index[visual_slots]] == video]
            present = len(slots)
            previous, similarity, mergeable = None, None, 0
            if plan.wants_merges(layer):
                token = index[slots]
                previous = merging.previous_at_same_patch(layout.frame[token], layout.patch[token])
                similarity = merging.previous_similarity(hidden[b, slots], previous)
                mergeable = int((similarity >= self.settings.similarity_lower_bound).sum())
            step = plan.step(layer, present, mergeable)
            if step.merge and previous is not None and similarity is not None:
                chosen = merging.choose_merges(similarity, self.settings.similarity_lower_bound, step.merge)
                merged = merging.merge_runs(hidden[b, slots], previous, chosen)
                hidden[b, slots[merged.kept]] = merged.features
                moved[columns[slots]] = columns[slots[merged.target]]
                staying[slots[chosen]] = False
                slots = slots[merged.kept]
                self._has_merged = True
            if step.keep is not None:
                chosen = self._prune(b, hidden[b, slots], index[slots], weight, slots, step.keep)
                gone = torch.ones(len(slots), dtype=torch.bool, device=slots.device)
                gone[chosen] = False
                moved[columns[slots[gone]]] = -1
                staying[slots[gone]] = False
            logger.debug(
                "before layer %d, sample %d, video %d: %d tokens, %d merged, keep %s",
                layer,
                b,
                video,
                present,
                step.merge,
                step.keep,
            )
        # A token may merge into one that is pruned in the same stage: follow once more.
        moved = torch.where(moved >= 0, moved[moved.clamp_min(0)], -1)
        into = self._merged_into[b]
        self._merged_into[b] = torch.where(into >= 0, moved[into.clamp_min(0)], -1)
        return staying.nonzero().squeeze(-1)

    def _prune(
        self, b: int, features: Tensor, tokens: Tensor, weight: Tensor | None, slots: Tensor, total: int
    ) -> Tensor:
        """The indices into ``features`` that stay, ``total`` of them."""
        assert self.segments is not None
        segments = self.segments[b][tokens]
        ids, compact, lengths = segments.unique(return_inverse=True, return_counts=True)
        if self.settings.budget_rule == "marginal-value":
            means = torch.zeros(len(ids), features.shape[1], device=features.device)
            means.index_add_(0, compact, features.float())
            counts = budgets.marginal_value(means / lengths[:, None], lengths.tolist(), total)
        else:
            counts = budgets.uniform(lengths.tolist(), total)
        of_segment = dict(zip(ids.tolist(), counts, strict=True))
        select = SELECTORS[self.settings.selector]
        return select(features, None if weight is None else weight[slots], segments, of_segment)

    def _shorten(self, hidden: Tensor, slots: list[Tensor]) -> Tensor:
        """Gather the slots that stay, aligned to the right."""
        longest = max(len(kept) for kept in slots)
        index = hidden.new_zeros((len(slots), longest), dtype=torch.long)
        columns = torch.full_like(index, -1)
        for b, kept in enumerate(slots):
            index[b, longest - len(kept) :] = kept
            columns[b, longest - len(kept) :] = self.columns[b, kept]
            self._visual[b] -= self._lengths[b] - len(kept)
            self._lengths[b] = len(kept)
        self.columns, self.reduced = columns, True
        self.padded = any(n < longest for n in self._lengths)
        return hidden.gather(1, index[:, :, None].expand(-1, -1, hidden.shape[2]))

    def _record(self, layer: int, milliseconds: float) -> Stage:
        kept = [row[row >= 0].cpu() for row in self.columns]
        into = [row.cpu() for row in self._merged_into.clone()] if self._has_merged else None
        return Stage(layer, kept, into, milliseconds)
