"""What is held of the beginning of a sample when its first stages are through. Pure tensors, no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from framefusion.reduction.layout import VisualLayout
from framefusion.reduction.schedule import Plan


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


@dataclass(frozen=True, eq=False)
class Held:
    """One sample's first columns, as the stages before a layer left them. All tensors are int64 on the CPU.

    Attributes:
        length: columns, ``N``.
        layout: of the visual tokens that may be reduced.
        seen: columns of all visual tokens, those that are left alone included.
        columns: ``(n,)``, ascending: those that are there.
        segments: segment of each token of the layout, in its order; None where nothing is reduced.
        merged_into: ``(N,)``: the column that holds each token, -1 if none does.
        stages: so far.
        plans: of each item, as far as they were asked; None for one that has to be planned anew.
        budgets: tokens of each item that plans count by: those that it had, less the share that was forgotten.
        encoder: the attention of the vision encoder on each token of the layout, where stages go by it.
        visual_per_layer: visual tokens in each layer so far.
        tokens_per_layer: tokens in each layer so far.
        uncounted: visual tokens of the layout, and columns, that are gone and no longer counted.
    """

    length: int
    layout: VisualLayout
    seen: Tensor
    columns: Tensor
    segments: Tensor | None
    merged_into: Tensor
    stages: tuple[Stage, ...]
    plans: tuple[Plan | None, ...]
    budgets: tuple[float, ...]
    encoder: Tensor | None
    visual_per_layer: tuple[int, ...]
    tokens_per_layer: tuple[int, ...]
    uncounted: tuple[int, int] = (0, 0)

    @property
    def visual(self) -> Tensor:
        """``(n,)`` bool: which of the columns that are there hold a token of the layout."""
        return torch.isin(self.columns, self.layout.columns)

    def followed_by(self, other: Held, *, continues: bool) -> Held:
        """This and what comes behind it, which went through the same layers.

        Args:
            other: of a part with columns of its own, from 0.
            continues: whether its first item is more of this one's last.

        Raises:
            ValueError: the frames of an item are of two sizes.
        """
        continues = continues and bool(len(self.layout)) and bool(len(other.layout))
        layout = self.layout.followed_by(other.layout, self.length, continues=continues)
        plans, budgets = self.plans + other.plans, self.budgets + other.budgets
        if continues:
            last, more = self.plans[-1], other.plans[0]
            whole = None if last is None or more is None else last.followed_by(more)
            plans = (*self.plans[:-1], whole, *other.plans[1:])
            budgets = (*self.budgets[:-1], self.budgets[-1] + other.budgets[0], *other.budgets[1:])
        segments = None
        if self.segments is not None and other.segments is not None:
            begin = int(self.segments.max()) + 1 if len(self.segments) else 0
            segments = torch.cat([self.segments, other.segments + begin])
        return Held(
            self.length + other.length,
            layout,
            torch.cat([self.seen, other.seen + self.length]),
            torch.cat([self.columns, other.columns + self.length]),
            segments,
            _behind(self.merged_into, other.merged_into),
            _stages(self, other),
            plans,
            budgets,
            None if self.encoder is None or other.encoder is None else torch.cat([self.encoder, other.encoder]),
            tuple(map(sum, zip(self.visual_per_layer, other.visual_per_layer, strict=True))),
            tuple(map(sum, zip(self.tokens_per_layer, other.tokens_per_layer, strict=True))),
            (self.uncounted[0] + other.uncounted[0], self.uncounted[1] + other.uncounted[1]),
        )

    def without(self, columns: Tensor) -> Held:
        """The same with some visual tokens forgotten.

        Args:
            columns: int64: those that are there and go.
        """
        gone = torch.zeros(self.length, dtype=torch.bool)
        gone[columns] = True
        budgets = []
        for item, budget in enumerate(self.budgets):
            own = self.columns[torch.isin(self.columns, self.layout.columns[self.layout.item == item])]
            left = int((~gone[own]).sum())
            budgets.append(budget * left / len(own) if len(own) else 0.0)
        into = self.merged_into
        forgotten = (into >= 0) & gone[into.clamp_min(0)]
        return replace(
            self,
            columns=self.columns[~gone[self.columns]],
            merged_into=torch.where(forgotten, -1, into),
            plans=(None,) * len(self.plans),
            budgets=tuple(budgets),
        )

    def counting(self, columns: Tensor) -> Held:
        """The same with some columns alone, numbered anew.

        Args:
            columns: ``(n,)`` int64, ascending, all that are there among them.
        """
        number = torch.full((self.length,), -1)
        number[columns] = torch.arange(len(columns))
        layout, own = self.layout, number[self.layout.columns] >= 0
        moved = VisualLayout(
            number[layout.columns[own]],
            layout.item[own],
            layout.frame[own],
            layout.patch[own],
            layout.grids,
            layout.kinds,
        )
        return replace(
            self,
            length=len(columns),
            layout=moved,
            seen=_counted(self.seen, number),
            columns=number[self.columns],
            segments=None if self.segments is None else self.segments[own],
            merged_into=_moved(self.merged_into[columns], number),
            stages=tuple(_renumbered(stage, columns, number) for stage in self.stages),
            encoder=None if self.encoder is None else self.encoder[own.to(self.encoder.device)],
            uncounted=(
                self.uncounted[0] + len(layout) - len(moved),
                self.uncounted[1] + self.length - len(columns),
            ),
        )


def _counted(columns: Tensor, number: Tensor) -> Tensor:
    """The new numbers of those columns that have one."""
    found = number[columns]
    return found[found >= 0]


def _moved(into: Tensor, number: Tensor) -> Tensor:
    return torch.where(into >= 0, number[into.clamp_min(0)], -1)


def _renumbered(stage: Stage, columns: Tensor, number: Tensor) -> Stage:
    merged = stage.merged_into
    into = None if merged is None else [_moved(merged[0][columns], number)]
    return replace(stage, kept=[_counted(stage.kept[0], number)], merged_into=into)


def _behind(first: Tensor, second: Tensor) -> Tensor:
    """Columns of a part behind another one, -1 for none."""
    return torch.cat([first, torch.where(second >= 0, second + len(first), -1)])


def _stages(first: Held, second: Held) -> tuple[Stage, ...]:
    """The stages of both, one for each layer."""
    layers = sorted({stage.layer for held in (first, second) for stage in held.stages})
    return tuple(_stage(layer, first, second) for layer in layers)


def _stage(layer: int, first: Held, second: Held) -> Stage:
    kept, into, milliseconds, merged = [], [], 0.0, False
    for held in (first, second):
        passed = [stage for stage in held.stages if stage.layer <= layer]
        everything = torch.arange(held.length)
        latest = passed[-1] if passed else Stage(layer, [everything], None, 0.0)
        milliseconds += latest.milliseconds if latest.layer == layer else 0.0
        merged = merged or latest.merged_into is not None
        kept.append(latest.kept[0])
        if latest.merged_into is not None:
            into.append(latest.merged_into[0])
        else:
            there = torch.full_like(everything, -1)
            there[latest.kept[0]] = latest.kept[0]
            into.append(there)
    columns = torch.cat([kept[0], kept[1] + first.length])
    return Stage(layer, [columns], [_behind(*into)] if merged else None, milliseconds)


def extended(stages: Sequence[Stage], length: int, rows: Tensor) -> list[Stage]:
    """The stages of one sample's beginning, with what came behind it in each of several samples.

    Args:
        stages: of the beginning.
        length: its columns.
        rows: ``(B, q)`` bool: which of the columns behind it are no padding.
    """
    behind = [torch.where(row, torch.arange(len(row)), -1) for row in rows]
    made = []
    for stage in stages:
        kept = [torch.cat([stage.kept[0], own[own >= 0] + length]) for own in behind]
        into = stage.merged_into
        merged = None if into is None else [_behind(into[0], own) for own in behind]
        made.append(Stage(stage.layer, kept, merged, stage.milliseconds))
    return made
