"""Where and how much: the stages of a reduction over the decoder layers. Pure numbers, no model.

A *stage* happens before a decoder layer. What a video does there is one :class:`Step`: merge so many tokens, then
prune to so many. Three plans hand out the steps, one object per video and prefill:

* :class:`Pyramid` follows a ``cost``: stages at given parts of the depth, few tokens left behind the last (the shape is
  that of PyramidDrop, arXiv 2410.17247).
* :class:`Cascade` follows a ``cost`` with merging: merge in the first layers, then prune once (FrameFusion,
  arXiv 2501.01986).
* :class:`Staged` follows shares of the original tokens at given layers (HieraVid, arXiv 2604.01881).

Attention to go by exists only behind the first softmax-attention layer. ``first`` is the layer after that one: 1, but
more in hybrid decoders, whose first layers attend linearly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple, Protocol

from framefusion.errors import ArgumentError
from framefusion.reduction.budgets import total_kept


def default_layer(layers: int, first: int = 1) -> int:
    """The layer before which ``keep=0.2`` reduces: ``max(first, round(layers / 14))``.

    That is layer 2 of 28, where FastV (arXiv 2403.06764) found most attention to visual tokens gone, and layer 1
    of small models. Layer 0, without attention, if there is no layer ``first``.
    """
    layer = max(first, round(layers / 14))
    return layer if layer < layers else 0


def smallest_cost(tokens: int, layers: int, first: int = 1) -> float:
    """The smallest ``cost`` that a video of ``tokens`` visual tokens can be sure to reach.

    The layers before ``first`` run on all tokens if nothing can be merged, and one token is left for the others:
    ``(first + (layers - first) / tokens) / layers``.
    """
    first = min(first, layers)
    return (first + (layers - first) / max(tokens, 1)) / layers


def check_cost(cost: float, layers: int, tokens: int | None = None, first: int = 1) -> None:
    """Refuse a cost that cannot be reached.

    Args:
        cost: mean share of the visual tokens over the decoder layers.
        layers: decoder layers of the model.
        tokens: visual tokens of the video; None when unknown, which gives the bound that holds for any length.
        first: the first layer before which attention exists.

    Raises:
        ValueError: with the smallest reachable cost.
    """
    smallest = min(first, layers) / layers if tokens is None else smallest_cost(tokens, layers, first)
    if cost < smallest - 1e-9:
        what = "any video" if tokens is None else f"a video of {tokens} visual tokens"
        before = "first layer" if first == 1 else f"first {min(first, layers)} layers, before any softmax attention,"
        raise ArgumentError(
            f"cost={cost} cannot be reached on {layers} decoder layers: the {before} may have to see every "
            f"token, so the smallest cost for {what} is {math.ceil(smallest * 1e4) / 1e4:.4f}. Ask for at least "
            "that, or use keep, which may reduce before layer 0."
        )


STAGES = ((0.0, 1.0), (2 / 3, 0.25))
"""Stages of ``cost``: before which part of the layers, and what stays there relative to the first one. Chosen on real
pretrained decoders (``docs/how-it-works/stages.md``): tokens that are copies may leave before layer 0, others are
needed up to two thirds of the depth, where the attention of the text tells the quarter that still is."""


def pyramid(
    cost: float, layers: int, first: int = 1, steps: Sequence[tuple[float, float]] = STAGES
) -> dict[int, float]:
    """Shares of the original tokens by layer whose mean over the layers is the cost.

    Each is ``min(1, x * ratio)`` with the one ``x`` that spends the cost. The layers before the first stage run on all
    tokens.

    Args:
        cost: mean share of the visual tokens over the decoder layers, in (0, 1].
        layers: decoder layers of the model.
        first: no stage but that before layer 0 comes before this layer.
        steps: part of the layers and ratio of each stage, parts ascending, ratios not.

    Raises:
        ValueError: the layers before the first stage spend all of the cost.
    """
    ratios = {max(round(part * layers), first) if part else 0: ratio for part, ratio in steps}
    ratios = {layer: ratio for layer, ratio in ratios.items() if layer < layers}
    shrinking = list(zip(_spans(ratios, layers), ratios.values(), strict=True))
    untouched = next(iter(ratios), layers)
    left, scale = cost * layers - untouched, 1.0
    if cost < 1 and left < 1e-9:
        raise ArgumentError(
            f"cost={cost} cannot be reached: stages begin behind {untouched} of {layers} decoder layers, which run on "
            f"all tokens. Ask for more than {untouched / layers:.4g}, or begin earlier."
        )
    while shrinking:
        scale = left / sum(span * ratio for span, ratio in shrinking)
        if scale * shrinking[0][1] <= 1:
            break
        left -= shrinking.pop(0)[0]
    return {layer: min(1.0, scale * ratio) for layer, ratio in ratios.items()}


def _spans(stages: Mapping[int, float], layers: int) -> list[int]:
    """How many layers come behind each stage, up to the next one."""
    return [end - layer for layer, end in zip(stages, [*stages, layers][1:], strict=True)]


def late_layer(layers: int) -> int:
    """The first layer of the later half, before which the text's attention tells what a question needs.

    Behind the first layers of pretrained decoders it does not (``docs/how-it-works/stages.md``).
    """
    return (layers + 1) // 2


class Step(NamedTuple):
    """What one video does before one layer: first merge, then prune."""

    merge: int = 0
    """How many tokens merge, the most similar ones first."""
    keep: int | None = None
    """How many tokens stay after the pruning, at most with an adaptive plan; None: no pruning here."""


class Plan(Protocol):
    """Hands out the steps of one video; asked once before every layer, in order."""

    def wants_merges(self, layer: int) -> bool:
        """Whether tokens may merge before ``layer``, so that similarities must be computed."""

    def wants_attention(self, layer: int) -> bool:
        """Whether a pruning before ``layer`` is possible, so that attention must be recorded for it."""

    def step(self, layer: int, present: int, mergeable: int = 0) -> Step:
        """The step before ``layer`` for a video with ``present`` tokens, ``mergeable`` of which are similar
        enough to merge."""

    def followed_by(self, other: Any) -> Plan | None:
        """The plan of a video whose first part went by this one and whose second by ``other``; None if it follows from
        the length of the whole."""


def tokens_per_layer(plan: Plan, tokens: int, layers: int) -> list[int]:
    """Tokens of one video in each decoder layer when no two of them are similar enough to merge.

    Args:
        plan: a new plan for the video; it is used up.
        tokens: visual tokens of the video.
        layers: decoder layers.
    """
    found, present = [], tokens
    for layer in range(layers):
        step = plan.step(layer, present)
        present = present - step.merge if step.keep is None else step.keep
        found.append(present)
    return found


class Cascade:
    """FrameFusion's cascade for one video: merge in the first layers, then prune once to meet the cost.

    Differs from the published code in three points: the number of layers is the model's own; merging also ends
    when one more layer at the present length would put the cost out of reach, so that a prefill never fails; and
    what is spent is counted in tokens, so that rounding does not add up.

    Args:
        tokens: visual tokens of the video.
        layers: decoder layers.
        cost: mean share of visual tokens over the layers, see :func:`check_cost`.
        ratio_lower_bound: merging is finished once a layer merges a smaller share than this.
        first: the first layer before which attention exists; there is no pruning before an earlier one.
        adaptive: the cost is an upper bound, and the video may keep less than its step says: the cascade always
            ends with a pruning, even where merging alone has met the cost.

    Raises:
        ValueError: the cost cannot be reached.
    """

    def __init__(
        self,
        tokens: int,
        layers: int,
        cost: float,
        *,
        ratio_lower_bound: float = 0.1,
        first: int = 1,
        adaptive: bool = False,
    ) -> None:
        check_cost(cost, layers, tokens, first)
        self.layers, self.first, self.adaptive = layers, first, adaptive
        self.allowance = layers * cost * tokens
        """Tokens that all layers together may still run on."""
        self.ratio_lower_bound = ratio_lower_bound
        self.finished = (cost >= 1 and not adaptive) or not tokens
        self.merging = cost < 1 and not self.finished

    def required_ratio(self, layer: int, present: int) -> float:
        """Share of the present tokens that must go before ``layer`` so that the cost is met when nothing is
        reduced afterwards: ``1 - (L * cost - spent) / ((L - l) * kept)``, 0 if that is negative."""
        return max(0.0, 1 - self.allowance / ((self.layers - layer) * present)) if present else 0.0

    def wants_merges(self, layer: int) -> bool:
        return self.merging

    def wants_attention(self, layer: int) -> bool:
        return not self.finished and layer >= self.first

    def followed_by(self, other: Cascade) -> Cascade:
        whole = copy(self)
        whole.allowance += other.allowance
        whole.merging, whole.finished = self.merging or other.merging, self.finished and other.finished
        return whole

    def step(self, layer: int, present: int, mergeable: int = 0) -> Step:
        step = self._step(layer, present, mergeable)
        self.allowance -= present - step.merge if step.keep is None else step.keep
        return step

    def _step(self, layer: int, present: int, mergeable: int) -> Step:
        if self.finished:
            return Step()
        if self.merging:
            limit = int(self.required_ratio(layer, present) * present)
            if mergeable >= limit:
                self.merging, self.finished = False, not self.adaptive
                return Step(merge=limit)
            at_least = present - mergeable + (self.layers - layer - 1)
            if layer < self.first or at_least <= self.allowance + 1e-6:
                self.merging = mergeable >= self.ratio_lower_bound * present
                return Step(merge=mergeable)
            # One more layer at this length would put the cost out of reach: prune now instead.
            self.merging = False
        if layer < self.first:
            return Step()
        self.finished = True
        keep = max(1, math.floor(self.allowance / (self.layers - layer) + 0.5))
        return Step(keep=min(keep, present)) if self.adaptive or keep < present else Step()


class Staged:
    """Given shares of the original tokens at given layers, for one video.

    Args:
        tokens: visual tokens of the video.
        shares: ``{layer: share of the original tokens}``, non-increasing over depth.
        merge: whether similar tokens merge in the layers before the first stage (and before layer 0); merging
            never goes below the first stage's total.
        ratio_lower_bound: merging is finished once a layer merges a smaller share than this.
        adaptive: shares are upper bounds, and the video may keep less than its steps say; a stage prunes even if
            all that is present fits its total.
    """

    def __init__(
        self,
        tokens: int,
        shares: Mapping[int, float],
        *,
        merge: bool = False,
        ratio_lower_bound: float = 0.1,
        adaptive: bool = False,
    ) -> None:
        self.adaptive = adaptive
        self.totals = {
            layer: total_kept(share, tokens) for layer, share in sorted(shares.items()) if share < 1 or adaptive
        }
        self.first = next(iter(self.totals), 0)
        self.ratio_lower_bound = ratio_lower_bound
        self.merging = merge and bool(self.totals) and tokens > 0

    def wants_merges(self, layer: int) -> bool:
        return self.merging and (layer == 0 or layer < self.first)

    def wants_attention(self, layer: int) -> bool:
        return layer > 0 and layer in self.totals

    def followed_by(self, other: Staged) -> None:
        return None

    def step(self, layer: int, present: int, mergeable: int = 0) -> Step:
        merge = 0
        if self.wants_merges(layer):
            limit = max(0, present - self.totals[self.first])
            merge = min(mergeable, limit)
            self.merging = merge < limit and mergeable >= self.ratio_lower_bound * present
        keep, left = self.totals.get(layer), present - merge
        if keep is None or not present or (keep >= left and not self.adaptive):
            return Step(merge)
        return Step(merge, min(keep, left))


class Pyramid(Staged):
    """The stages of a ``cost`` for one video.

    Totals are whole tokens, and the last one takes up what rounding left over before, so that the cost is met to half a
    token in the layers behind it, as long as stages keep more than a few. At least one token stays, also where one over
    the tokens is more than the cost.

    Args:
        tokens: visual tokens of the video.
        layers: decoder layers.
        cost: mean share of visual tokens over the layers.
        first: the first layer before which attention exists, for settings that go by it.
        steps: the stages, as of :func:`pyramid`.
        adaptive: the totals are upper bounds.

    Raises:
        ValueError: the layers before the first stage spend all of the cost.
    """

    def __init__(
        self,
        tokens: int,
        layers: int,
        cost: float,
        *,
        first: int = 1,
        steps: Sequence[tuple[float, float]] = STAGES,
        adaptive: bool = False,
    ) -> None:
        shares = pyramid(cost, layers, first, steps)
        super().__init__(tokens, shares, adaptive=adaptive)
        left, most = (cost * layers - next(iter(shares), layers)) * tokens, tokens
        for (layer, share), span in zip(shares.items(), _spans(shares, layers), strict=True):
            behind = layers - layer - span
            affordable = math.floor((left - behind) / span + (1e-9 if behind else 0.5))
            wanted = total_kept(share, tokens) if behind else affordable
            most = max(1, min(wanted, most, affordable))
            left -= span * most
            if layer in self.totals:
                self.totals[layer] = most
