"""The settings of a reduction: one validated, frozen dataclass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, Literal, get_args

from framefusion.schedule import Cascade, Plan, Staged, check_cost, default_layer
from framefusion.selectors import SELECTORS

Segmentation = Literal["frame-similarity", "windows", "single"]
BudgetRule = Literal["uniform", "marginal-value"]
Relevance = Literal["last", "text", "all", "all-viewers", "none"]


@dataclass(frozen=True)
class FrameFusion:
    """How much to keep, where to reduce, and by which rule.

    Give either ``cost`` or ``keep``; with neither, ``cost`` is 0.3. All shares are of the *original* visual
    tokens, per video or image; a share ``k`` of ``N`` tokens keeps ``max(1, floor(k * N + 1/2))``. A sequence gives
    each sample of a batch its own value; when ``generate()`` expands the batch for beams or several returned
    sequences, the values go along.

    Attributes:
        cost: mean share of the visual tokens over all decoder layers, in (0, 1]. Merges in the first layers, then
            prunes once (FrameFusion, arXiv 2501.01986). The smallest reachable cost is just above one over the
            number of layers; less is refused before anything runs. In a hybrid decoder, whose first ``n`` layers
            attend linearly, it is just above ``n + 1`` over the number of layers.
        keep: share in (0, 1] that stays from the default layer on (``max(1, round(layers / 14))``: layer 2 of
            28; in a hybrid decoder no earlier than behind its first softmax attention), or a mapping
            ``{layer: share}``, non-increasing over depth: one stage before each of these layers. A stage before
            layer 0 has no attention yet and goes by diversity alone.
        merge: whether similar tokens of consecutive frames merge before the pruning. Default: on with ``cost``,
            off with ``keep``.
        similarity_lower_bound: cosine similarity from which two tokens count as similar. Default 0.6.
        ratio_lower_bound: merging ends once a layer merges a smaller share than this. Default 0.1.
        segmentation: ``"frame-similarity"`` (default; a new segment where fewer than ``segment_threshold`` of the
            patches resemble the frame before), ``"windows"`` (of ``segment_window`` frames) or ``"single"``.
        segment_threshold: share of similar patches, in [0, 1]. Default 0.4.
        segment_window: frames of a fixed window. Default 4.
        budget_rule: ``"uniform"`` (default; the same keep ratio in every segment) or ``"marginal-value"``
            (MMG-Vid, arXiv 2508.21044). Either hits the total exactly.
        relevance: whose attention counts, in the layer before the stage (in a hybrid decoder the latest one before
            it with softmax attention): ``"last"`` (default; the last query token), ``"text"`` (the text tokens after
            the last visual token), ``"all"`` (the mean over all tokens, which favours early ones, as more tokens see
            them), ``"all-viewers"`` (the mean over the tokens that can see each one) or ``"none"`` (diversity alone).
        relevance_sign: +1 (default) prefers the most attended tokens, -1 the least attended, as the published
            segment-wise code does.
        selector: which rule picks the tokens of a segment: ``"dpp"`` (default), ``"topk"`` (attention only),
            ``"uniform"`` (evenly spaced), or a registered one.
        images: whether images are reduced as well (default), each one segment of its own; False leaves them as
            they are.

    Raises:
        ValueError: a value is out of range, or two of them contradict each other.
    """

    cost: float | Sequence[float] | None = None
    keep: float | Mapping[int, float] | Sequence[float | Mapping[int, float]] | None = None
    merge: bool | None = None
    similarity_lower_bound: float = 0.6
    ratio_lower_bound: float = 0.1
    segmentation: Segmentation = "frame-similarity"
    segment_threshold: float = 0.4
    segment_window: int = 4
    budget_rule: BudgetRule = "uniform"
    relevance: Relevance = "last"
    relevance_sign: int = 1
    selector: str = "dpp"
    images: bool = True

    def __post_init__(self) -> None:
        if self.cost is not None and self.keep is not None:
            raise ValueError(
                f"cost={self.cost} and keep={self.keep} exclude each other: cost is the mean over all layers, keep "
                "what stays from a layer on. Give one of them (the other is None)."
            )
        if self.cost is None and self.keep is None:
            object.__setattr__(self, "cost", 0.3)
        for name in ("cost", "keep"):
            value = getattr(self, name)
            if isinstance(value, Sequence) and not isinstance(value, str):
                if not value:
                    raise ValueError(f"{name} is an empty sequence; give one value for each sample of the batch.")
                object.__setattr__(self, name, tuple(_share(f"{name}[{i}]", item) for i, item in enumerate(value)))
            elif value is not None:
                object.__setattr__(self, name, _share(name, value))
        if self.merge is None:
            object.__setattr__(self, "merge", self.cost is not None)
        elif not isinstance(self.merge, bool):
            raise ValueError(f"merge must be True, False or None, got {self.merge!r}.")
        if not isinstance(self.images, bool):
            raise ValueError(f"images must be True or False, got {self.images!r}.")
        _number("similarity_lower_bound", self.similarity_lower_bound, -1, 1)
        _number("ratio_lower_bound", self.ratio_lower_bound, 0, 1)
        _number("segment_threshold", self.segment_threshold, 0, 1)
        if not _is_int(self.segment_window) or self.segment_window < 1:
            raise ValueError(
                f"segment_window must be a whole number of frames, at least 1, got {self.segment_window!r}."
            )
        _choice("segmentation", self.segmentation, get_args(Segmentation))
        _choice("budget_rule", self.budget_rule, get_args(BudgetRule))
        _choice("relevance", self.relevance, get_args(Relevance))
        _choice("selector", self.selector, tuple(SELECTORS))
        if self.relevance_sign not in (1, -1) or isinstance(self.relevance_sign, bool):
            raise ValueError(
                f"relevance_sign must be +1 (most attended first) or -1 (least attended first), got "
                f"{self.relevance_sign!r}."
            )
        if self.selector == "topk" and self.relevance == "none":
            raise ValueError("selector='topk' ranks by attention; it needs another relevance than 'none'.")
        for row in self._rows:
            row._check_topk(row.keep if isinstance(row.keep, Mapping) else {})

    @property
    def _rows(self) -> tuple[FrameFusion, ...]:
        """These settings with one cost or keep each: as many as were given."""
        for name in ("cost", "keep"):
            values = getattr(self, name)
            if isinstance(values, tuple):
                return tuple(replace(self, **{name: value}) for value in values)
        return (self,)

    @property
    def values(self) -> int:
        """How many values ``cost`` or ``keep`` has: 1, or one for each sample."""
        return len(self._rows)

    def of_samples(self, batch: int) -> list[FrameFusion]:
        """The settings of each sample of a batch.

        Raises:
            ValueError: a sequence was given for another number of samples.
        """
        rows = self._rows
        if len(rows) > 1 and batch % len(rows):
            name = "cost" if self.keep is None else "keep"
            raise ValueError(
                f"{name} has {len(rows)} values for a batch of {batch} samples; give one value for each sample, or a "
                "single one for all."
            )
        return [row for row in rows for _ in range(batch // len(rows))]

    @property
    def keeps_all(self) -> bool:
        """Whether these settings reduce nothing (``keep=1.0`` or ``cost=1.0``)."""
        return all(row._keeps_all for row in self._rows)

    @property
    def _keeps_all(self) -> bool:
        if self.keep is None:
            return self.cost == 1
        return min(self.keep.values()) == 1 if isinstance(self.keep, Mapping) else self.keep == 1

    def reduces_before_first(self, layers: int) -> bool:
        """Whether a decoder of ``layers`` layers may see fewer tokens in its first layer already."""
        if self.keeps_all:
            return False
        return bool(self.merge) or any(row.shares(layers).get(0, 1.0) < 1 for row in self._rows)

    def shares(self, layers: int, first: int = 1) -> dict[int, float]:
        """The stages of ``keep`` as ``{layer: share}`` for a decoder of ``layers`` layers; empty with ``cost``.

        Of settings with one value for all samples, as :meth:`of_samples` gives them.

        Args:
            layers: decoder layers of the model.
            first: the first layer before which attention exists, see :mod:`framefusion.schedule`.

        Raises:
            ValueError: a stage lies behind the last layer.
        """
        if self.keep is None:
            return {}
        assert not isinstance(self.keep, Sequence)
        if isinstance(self.keep, Mapping):
            shares = dict(self.keep)
        else:
            shares = {default_layer(layers, self._first(first)): self.keep}
        if max(shares, default=0) >= layers:
            raise ValueError(
                f"keep has a stage before layer {max(shares)}, but the model has {layers} decoder layers "
                f"(0 to {layers - 1})."
            )
        return shares

    def _first(self, first: int) -> int:
        """The first layer before which these settings can prune, if attention exists from ``first`` on."""
        return 1 if self.relevance == "none" else first

    def _check_topk(self, shares: Mapping[int, float]) -> None:
        if self.selector == "topk" and shares.get(0, 1.0) < 1:
            raise ValueError(
                "selector='topk' ranks by attention, and no attention exists before layer 0: start keep at layer 1 "
                "or later, or use selector='dpp'."
            )

    def check(self, layers: int, first: int = 1) -> None:
        """Refuse settings that a decoder of ``layers`` layers cannot follow, whatever the video.

        Args:
            layers: decoder layers of the model.
            first: the first layer before which attention exists, see :mod:`framefusion.schedule`.

        Raises:
            ValueError: an unreachable cost (with the smallest reachable one), a stage behind the last layer, or one
                between layer 0 and the first attention.
        """
        for row in self._rows:
            if row.cost is not None:
                assert not isinstance(row.cost, Sequence)
                check_cost(row.cost, layers, first=row._first(first))
            shares = row.shares(layers, first)
            row._check_topk(shares)
            blind = [layer for layer, share in shares.items() if 0 < layer < row._first(first) and share < 1]
            if blind:
                start = f"start at layer {first} or use" if first < layers else "use"
                raise ValueError(
                    f"keep has a stage before layer {blind[0]}, but softmax attention, which it goes by, comes first "
                    f"in layer {first - 1} of this decoder; {start} relevance='none' (diversity alone)."
                )

    def plan(self, tokens: int, layers: int, first: int = 1) -> Plan:
        """The plan for one video or image of ``tokens`` visual tokens in a decoder of ``layers`` layers.

        Of settings with one value for all samples, as :meth:`of_samples` gives them.

        Args:
            tokens: visual tokens of the video or image.
            layers: decoder layers of the model.
            first: the first layer before which attention exists, see :mod:`framefusion.schedule`.

        Raises:
            ValueError: as :meth:`check`, with the exact smallest cost for this video.
        """
        options: dict[str, Any] = {"merge": bool(self.merge), "ratio_lower_bound": self.ratio_lower_bound}
        if self.cost is not None:
            assert not isinstance(self.cost, Sequence)
            return Cascade(tokens, layers, self.cost, first=self._first(first), **options)
        return Staged(tokens, self.shares(layers, first), **options)


def _is_int(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _number(name: str, value: Any, low: float, high: float, *, open_below: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name} must be a number, got {value!r}.")
    if not (low <= float(value) <= high) or (open_below and value == low):
        raise ValueError(f"{name} must be in {'(' if open_below else '['}{low}, {high}], got {value}.")


def _choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def _share(name: str, value: Any) -> Any:
    if isinstance(value, Mapping) and name.startswith("keep"):
        return _stages(name, value)
    _number(name, value, 0, 1, open_below=True)
    return value


def _stages(name: str, keep: Mapping[Any, Any]) -> dict[int, float]:
    if not keep:
        raise ValueError(f"{name} is an empty mapping; give at least one {{layer: share}}, or keep=1.0 to keep all.")
    for layer, share in keep.items():
        if not _is_int(layer) or layer < 0:
            raise ValueError(f"{name}: layer {layer!r} must be a whole number, 0 or more.")
        _number(f"{name}[{layer}]", share, 0, 1, open_below=True)
    stages = dict(sorted(keep.items()))
    shares = list(stages.items())
    for (above, more), (layer, share) in pairwise(shares):
        if share > more:
            raise ValueError(
                f"{name}[{layer}]={share} is more than {name}[{above}]={more}; shares are of the original tokens and "
                "cannot grow with depth."
            )
    return stages
