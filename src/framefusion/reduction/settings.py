"""The settings of a reduction: one validated, frozen dataclass, composed of one for each rule with parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from framefusion.checks import check_flag
from framefusion.errors import ArgumentError
from framefusion.reduction.amounts import AUTO, Stages, checked_amount, checked_stages
from framefusion.reduction.budgets import Novelty, novelty_of
from framefusion.reduction.changes import Changed
from framefusion.reduction.flat import with_flat_names
from framefusion.reduction.merging import Absorb, Merging, dropped_of, merging_of
from framefusion.reduction.rules import rule_field
from framefusion.reduction.schedule import (
    STAGES,
    Cascade,
    Plan,
    Pyramid,
    Staged,
    check_cost,
    default_layer,
    late_layer,
    pyramid,
)
from framefusion.reduction.selection import Selection
from framefusion.reduction.selectors import NEED_RELEVANCE
from framefusion.reduction.tome import ToMe
from framefusion.reduction.towers import tower_of

if TYPE_CHECKING:
    from framefusion.reduction.segmentation import Segmentation
    from framefusion.reduction.selectors.dpp import Kernel
    from framefusion.reduction.sources import Relevance


@with_flat_names
@dataclass(frozen=True)
class FrameFusion(Selection):
    """How much to keep, where to reduce, and by which rule.

    Give either ``cost`` or ``keep``; with neither, ``cost`` is 0.3. All shares are of the *original* visual
    tokens, per video or image; a share ``k`` of ``N`` tokens keeps ``max(1, floor(k * N + 1/2))``. A sequence gives
    each sample of a batch its own value; when ``generate()`` expands the batch for beams or several returned
    sequences, the values go along.

    The parameters of rules also have flat names, ``FrameFusion(segmentation="dyseg", segment_minimum=4)`` for
    ``FrameFusion(segmentation=DySeg(minimum=4))``: those of :data:`framefusion.reduction.flat.FLAT`.

    Attributes:
        cost: mean share of the visual tokens over all decoder layers, in (0, 1], spent in ``stages``. At least one
            token stays.
        keep: share in (0, 1] that stays from the default layer on (``max(1, round(layers / 14))``: layer 2 of
            28; in a hybrid decoder no earlier than behind its first softmax attention), or a mapping
            ``{layer: share}``, non-increasing over depth: one stage before each of these layers. A stage before
            layer 0 has no attention yet and goes by diversity alone where relevance is attention.
        stages: of ``cost``, without ``merging``: pairs ``(depth, share)``. A stage happens behind that part of the
            layers, in [0, 1), depths ascending, and keeps that share, in (0, 1], of what the first one keeps; the first
            pair's share is 1, and shares do not grow. Default None, one stage before layer 0 and one behind two thirds
            of the layers, where a quarter of that stays (:data:`framefusion.reduction.schedule.STAGES`, as which None
            is understood, and which become None). With a first stage before layer 0 any cost can be reached, else only
            more than its depth. ``"auto"``: those that fit the model.
        merging: whether similar tokens of consecutive frames merge before the first pruning: None or False (default),
            True, or a :class:`~framefusion.reduction.merging.Merging`. With ``cost``, tokens then merge in the first
            layers and are pruned once (FrameFusion, arXiv 2501.01986). The smallest reachable cost is then just above
            one over the number of layers, and just above ``n + 1`` over it in a hybrid decoder whose first ``n`` layers
            attend linearly; less is refused before anything runs.
        novelty: a lower bound or a :class:`~framefusion.reduction.budgets.Novelty`; None (default) keeps the exact
            share. ``cost`` and ``keep`` become upper bounds, also at 1.0, and a still video costs less than one that is
            cut fast. What is saved is not spent in other segments, nor in other layers. With the selector ``"dpp"``
            only.
        dropped: what becomes of the tokens that a stage does not keep: ``"absorb"`` (default; each is averaged into the
            kept token of its segment that is most similar, if it is similar enough, see
            :class:`~framefusion.reduction.merging.Absorb`) or ``"drop"``. A selector that says itself where they go is
            left to it.
        tower: None (default) lets the vision tower encode everything of a video; ``"changed"`` only what changed,
            ``"changed:LEVELS"`` from other than 8 grey levels on; ``"tome"`` merges patches that look alike from
            block to block, ``"tome:WORK"`` down to another share of the work than 2/3; or a
            :class:`~framefusion.reduction.changes.Changed` or :class:`~framefusion.reduction.tome.ToMe`.
        images: whether images are reduced as well (default), each one segment of its own; False leaves them as
            they are.

    ``segmentation``, ``budget_rule``, ``relevance``, ``selector`` and ``seed`` are those of :class:`Selection`.
    ``repr()`` is the call that makes the same settings, with what differs from the defaults.

    Raises:
        ValueError: a value is out of range, or two of them contradict each other.
    """

    cost: float | Sequence[float] | None = None
    keep: float | Mapping[int, float] | Sequence[float | Mapping[int, float]] | None = None
    stages: Sequence[tuple[float, float]] | Literal["auto"] | None = None
    merging: Merging | None = rule_field(None, merging_of)
    novelty: Novelty | None = rule_field(None, novelty_of)
    dropped: str | Absorb = rule_field(Absorb(), dropped_of)
    images: bool = True
    tower: Changed | ToMe | None = rule_field(None, tower_of)

    if TYPE_CHECKING:
        # What the fields understand, which hold rules.
        def __init__(
            self,
            cost: float | Sequence[float] | None = None,
            keep: float | Mapping[int, float] | Sequence[float | Mapping[int, float]] | None = None,
            stages: Sequence[tuple[float, float]] | Literal["auto"] | None = None,
            merging: Merging | bool | None = None,
            novelty: Novelty | float | None = None,
            dropped: str | Absorb = ...,
            images: bool = True,
            tower: Changed | ToMe | str | None = None,
            *,
            segmentation: str | Segmentation = ...,
            budget_rule: str | None = None,
            relevance: str | Relevance = ...,
            selector: str | Kernel = ...,
            seed: int = 0,
            **flat: Any,
        ) -> None: ...

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cost is not None and self.keep is not None:
            raise ArgumentError(
                f"cost={self.cost} and keep={self.keep} exclude each other: cost is the mean over all layers, keep "
                "what stays from a layer on. Give one of them (the other is None)."
            )
        object.__setattr__(self, "keep", checked_amount("keep", self.keep))
        cost = 0.3 if self.cost is None and self.keep is None else self.cost
        object.__setattr__(self, "cost", checked_amount("cost", cost))
        check_flag("images", self.images)
        if self.tower is not None and self.relevance.of.encoder:
            raise ArgumentError(
                f"tower and relevance={self.relevance.source!r} exclude each other: that relevance is the attention of "
                "all patches in the vision tower, of which it then computes a part. Leave one of them out."
            )
        if self.stages is not None:
            self._check_stages()
        if self.novelty is not None:
            self._check_novelty(self.novelty)
        source = self.relevance.of
        if self.selector_name in NEED_RELEVANCE and (source.late or self.relevance.source == "none"):
            raise ArgumentError(
                f"selector={self.selector_name!r} ranks by attention in every stage; it needs another relevance than "
                f"{self.relevance.source!r}, such as 'last' or 'text'."
            )
        for row in self._rows:
            row._check_relevance(row.keep if isinstance(row.keep, Mapping) else {})

    def __repr__(self) -> str:
        usual = {field.name: getattr(_DEFAULT, field.name) for field in fields(self)}
        usual["budget_rule"] = self.usual_budget_rule
        # None is no value: it stands for a default, or for what the other one of cost and keep says.
        given = {name: getattr(self, name) for name in ("cost", "keep", *usual)}
        said = [f"{name}={value!r}" for name, value in given.items() if value not in (None, usual[name])]
        return f"{type(self).__name__}({', '.join(said)})"

    def _check_stages(self) -> None:
        if self.keep is not None:
            raise ArgumentError(
                f"stages say where a cost is spent, but keep={self.keep} is given; leave one of them out."
            )
        if self.merging is not None:
            raise ArgumentError(
                "stages and merging exclude each other: a cost with merging is spent by merging, then by one pruning. "
                "Leave one of them out."
            )
        if isinstance(self.stages, str) and self.stages == AUTO:
            return
        stages = checked_stages(self.stages)
        object.__setattr__(self, "stages", None if stages == STAGES else stages)

    def _check_novelty(self, novelty: Novelty) -> None:
        if not self.greedy:
            raise ArgumentError(
                f"novelty goes by the gains of selector='dpp'; selector={self.selector_name!r} has none. Leave "
                "it out, or use selector='dpp'."
            )
        for row in self._values if self.keep is not None else ():
            share = min(row.values()) if isinstance(row, Mapping) else row
            if novelty.keep_lower_bound > share:
                raise ArgumentError(
                    f"Novelty.keep_lower_bound={novelty.keep_lower_bound} is more than keep={share}, which is the most "
                    "that may stay."
                )

    @property
    def _rows(self) -> tuple[FrameFusion, ...]:
        """These settings with one cost or keep each: as many as were given."""
        values, name = self._values, "cost" if self.keep is None else "keep"
        return (self,) if values == (getattr(self, name),) else tuple(replace(self, **{name: v}) for v in values)

    @property
    def _values(self) -> tuple[Any, ...]:
        """What was given for ``cost`` or ``keep``, for one sample each."""
        value = self.cost if self.keep is None else self.keep
        return value if isinstance(value, tuple) else (value,)

    @property
    def values(self) -> int:
        """How many values ``cost`` or ``keep`` has: 1, or one for each sample."""
        return len(self._values)

    def of_samples(self, batch: int) -> list[FrameFusion]:
        """The settings of each sample of a batch.

        Raises:
            ValueError: a sequence was given for another number of samples.
        """
        rows = self._rows
        if len(rows) > 1 and batch % len(rows):
            name = "cost" if self.keep is None else "keep"
            raise ArgumentError(
                f"{name} has {len(rows)} values for a batch of {batch} samples; give one value for each sample, or a "
                "single one for all."
            )
        return [row for row in rows for _ in range(batch // len(rows))]

    @property
    def steps(self) -> Stages:
        """The stages of ``cost``, those of the default where none are given, or none are known to fit the model."""
        return STAGES if self.stages is None or isinstance(self.stages, str) else tuple(self.stages)

    @property
    def keeps_all(self) -> bool:
        """Whether these settings reduce nothing (``keep=1.0`` or ``cost=1.0``, without ``novelty``)."""
        return not self.adaptive and all(row._keeps_all for row in self._rows)

    @property
    def adaptive(self) -> bool:
        """Whether ``cost`` and ``keep`` are upper bounds, and each video decides how much of that it needs."""
        return self.novelty is not None

    def _reduces(self, share: float) -> bool:
        """Whether a stage with this share may drop anything."""
        return share < 1 or self.adaptive

    @property
    def _keeps_all(self) -> bool:
        if self.keep is None:
            return self.cost == 1
        return min(self.keep.values()) == 1 if isinstance(self.keep, Mapping) else self.keep == 1

    def reduces_before_first(self, layers: int) -> bool:
        """Whether a decoder of ``layers`` layers may see fewer tokens in its first layer already."""
        if self.keeps_all:
            return False
        return self.merging is not None or any(
            0 in s and self._reduces(s[0]) for s in (r.shares(layers) for r in self._rows)
        )

    def shares(self, layers: int, first: int = 1) -> dict[int, float]:
        """The stages as ``{layer: share}`` for a decoder of ``layers`` layers; empty with ``cost`` and ``merging``,
        which decides on the way.

        Of settings with one value for all samples, as :meth:`of_samples` gives them.

        Args:
            layers: decoder layers of the model.
            first: the first layer before which attention exists, see :mod:`framefusion.reduction.schedule`.

        Raises:
            ValueError: a stage lies behind the last layer, or the layers before the first one spend all of the cost.
        """
        assert not isinstance(self.cost, Sequence)
        assert not isinstance(self.keep, Sequence)
        if self.keep is None:
            assert self.cost is not None
            return {} if self.merging else pyramid(self.cost, layers, self._first(layers, first), self.steps)
        if isinstance(self.keep, Mapping):
            shares = dict(self.keep)
        else:
            shares = {default_layer(layers, self._first(layers, first)): self.keep}
        if max(shares, default=0) >= layers:
            raise ArgumentError(
                f"keep has a stage before layer {max(shares)}, but the model has {layers} decoder layers "
                f"(0 to {layers - 1})."
            )
        return shares

    def _first(self, layers: int, first: int) -> int:
        """The first layer before which these settings can prune, if attention exists from ``first`` on."""
        source = self.relevance.of
        late = source.late and first <= late_layer(layers)
        return 1 if late or source.viewers is None else first

    def fork(self, layers: int, first: int = 1) -> int:
        """The first layer before which a stage goes by the question; as many as there are layers if none does.

        Up to there, questions about one video share what the decoder computes of it.

        Args:
            layers: decoder layers of the model.
            first: the first layer before which attention exists, see :mod:`framefusion.reduction.schedule`.
        """
        source = self.relevance.of
        if self.keeps_all or not source.question:
            return layers
        return min(row._fork(layers, first) for row in self._rows)

    def _fork(self, layers: int, first: int) -> int:
        source = self.relevance.of
        earliest = 0
        if source.viewers is not None:
            earliest = max(first, late_layer(layers) if source.late else 1)
        if self.cost is not None and self.merging is not None:
            found = [max(earliest, self._first(layers, first))]
        else:
            found = [s for s, share in self.shares(layers, first).items() if s >= earliest and self._reduces(share)]
        # The queries whose attention counts are everywhere in the prompt: nothing of it is known before the question.
        return 0 if source.viewers == "all" and found else min(found, default=layers)

    def _check_relevance(self, shares: Mapping[int, float]) -> None:
        if (
            self.selector_name in NEED_RELEVANCE
            and self.relevance.of.viewers is not None
            and not self.relevance.of.encoder
            and shares.get(0, 1.0) < 1
        ):
            raise ArgumentError(
                f"selector={self.selector_name!r} ranks by attention, and no attention exists before layer 0: start "
                "keep at layer 1 or later (cost: with merging=True), or use relevance='similarity' or 'dissimilarity', "
                "or selector='dpp'."
            )

    def check(self, layers: int, first: int = 1) -> None:
        """Refuse settings that a decoder of ``layers`` layers cannot follow, whatever the video.

        Args:
            layers: decoder layers of the model.
            first: the first layer before which attention exists, see :mod:`framefusion.reduction.schedule`.

        Raises:
            ValueError: an unreachable cost (with the smallest reachable one), a stage behind the last layer, or one
                between layer 0 and the first attention.
        """
        for row in self._rows:
            if row.cost is not None and row.merging:
                assert not isinstance(row.cost, Sequence)
                check_cost(row.cost, layers, first=row._first(layers, first))
            shares = row.shares(layers, first)
            row._check_relevance(shares)
            blind = [
                layer
                for layer, share in shares.items()
                if 0 < layer < row._first(layers, first) and row._reduces(share)
            ]
            if blind:
                start = f"start at layer {first} or use" if first < layers else "use"
                raise ArgumentError(
                    f"keep has a stage before layer {blind[0]}, but softmax attention, which it goes by, comes first "
                    f"in layer {first - 1} of this decoder; {start} relevance='none' (diversity alone)."
                )

    def plan(self, tokens: int, layers: int, first: int = 1) -> Plan:
        """The plan for one video or image of ``tokens`` visual tokens in a decoder of ``layers`` layers.

        Of settings with one value for all samples, as :meth:`of_samples` gives them.

        Args:
            tokens: visual tokens of the video or image.
            layers: decoder layers of the model.
            first: the first layer before which attention exists, see :mod:`framefusion.reduction.schedule`.

        Raises:
            ValueError: as :meth:`check`, with the exact smallest cost for this video.
        """
        assert not isinstance(self.cost, Sequence)
        first = self._first(layers, first)
        if self.cost is not None and self.merging is None:
            return Pyramid(tokens, layers, self.cost, first=first, steps=self.steps, adaptive=self.adaptive)
        ratio = 0.0 if self.merging is None else self.merging.ratio_lower_bound
        options: dict[str, Any] = {"ratio_lower_bound": ratio, "adaptive": self.adaptive}
        if self.cost is not None:
            return Cascade(tokens, layers, self.cost, first=first, **options)
        return Staged(tokens, self.shares(layers, first), merge=self.merging is not None, **options)


_DEFAULT = FrameFusion()
