"""The settings of a reduction: one validated, frozen dataclass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, Literal, get_args

from framefusion.errors import ArgumentError
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
from framefusion.reduction.segmentation import SEGMENTATIONS, Rule
from framefusion.reduction.selectors import NEED_RELEVANCE, SELECTORS

Segmentation = Literal["frame-similarity", "dyseg", "dp", "windows", "frames", "single"]
BudgetRule = Literal["uniform", "marginal-value", "joint"]
Relevance = Literal[
    "late-text", "last", "text", "all", "all-viewers", "similarity", "dissimilarity", "encoder", "encoder-last", "none"
]
Dropped = Literal["drop", "merge"]
Stages = tuple[tuple[float, float], ...]

AUTO = "auto"
"""``stages`` that fit the model."""

WITHOUT_ATTENTION = ("similarity", "dissimilarity", "encoder", "none")
"""The kinds of relevance that need no attention of the decoder, so that a stage before layer 0 may go by them."""

FROM_ENCODER = ("encoder", "encoder-last")
"""The kinds of relevance that go by the attention of the vision encoder, at least before layer 0."""

SEGMENT_THRESHOLDS = {"frame-similarity": 0.4, "dyseg": 0.9, "dp": 0.8}
"""The default ``segment_threshold`` of the segmentations that have one."""


@dataclass(frozen=True)
class FrameFusion:
    """How much to keep, where to reduce, and by which rule.

    Give either ``cost`` or ``keep``; with neither, ``cost`` is 0.3. All shares are of the *original* visual
    tokens, per video or image; a share ``k`` of ``N`` tokens keeps ``max(1, floor(k * N + 1/2))``. A sequence gives
    each sample of a batch its own value; when ``generate()`` expands the batch for beams or several returned
    sequences, the values go along.

    Attributes:
        cost: mean share of the visual tokens over all decoder layers, in (0, 1], spent in ``stages``. At least one
            token stays.
        stages: of ``cost``, without ``merge``: pairs ``(depth, share)``. A stage happens behind that part of the
            layers, in [0, 1), depths ascending, and keeps that share, in (0, 1], of what the first one keeps; the first
            pair's share is 1, and shares do not grow. Default None, one stage before layer 0 and one behind two thirds
            of the layers, where a quarter of that stays (:data:`framefusion.reduction.schedule.STAGES`, as which None
            is understood, and which become None). With a first stage before layer 0 any cost can be reached, else only
            more than its depth. ``"auto"``: those that fit the model.
        keep: share in (0, 1] that stays from the default layer on (``max(1, round(layers / 14))``: layer 2 of
            28; in a hybrid decoder no earlier than behind its first softmax attention), or a mapping
            ``{layer: share}``, non-increasing over depth: one stage before each of these layers. A stage before
            layer 0 has no attention yet and goes by diversity alone where relevance is attention.
        merge: whether similar tokens of consecutive frames merge before the first pruning. Default off. With ``cost``,
            tokens then merge in the first layers and are pruned once (FrameFusion, arXiv 2501.01986). The smallest
            reachable cost is then just above one over the number of layers, and just above ``n + 1`` over it in a
            hybrid decoder whose first ``n`` layers attend linearly; less is refused before anything runs.
        similarity_lower_bound: cosine similarity from which two tokens count as similar. Default 0.6.
        ratio_lower_bound: merging ends once a layer merges a smaller share than this. Default 0.1.
        segmentation: ``"dp"`` (default; HoliTom, arXiv 2505.21334: the cut in which most tokens stay similar to the one
            before them, cosine above ``segment_threshold``, through their whole segment), ``"frame-similarity"`` (a new
            segment where fewer than ``segment_threshold`` of the patches resemble the frame before; HieraVid, arXiv
            2604.01881), ``"dyseg"`` (FastVID, arXiv 2503.11187: where the cosine of the frames' mean tokens is below
            ``segment_threshold`` or among the ``segment_minimum - 1`` lowest), ``"windows"`` (of ``segment_window``
            frames), ``"frames"`` (each its own) or ``"single"``.
        segment_threshold: in [0, 1]. Default 0.4 with ``"frame-similarity"``, 0.9 with ``"dyseg"``, 0.8 with
            ``"dp"``; the others do not use it.
        segment_minimum: fewest segments of ``"dyseg"``. Default 8.
        segment_window: frames of a fixed window. Default 4.
        budget_rule: with the selector ``"dpp"``, ``"joint"`` (its default; wherever the gain in log-determinant is
            largest, so that short scenes are not lost beside long ones), ``"uniform"`` (the same keep ratio in every
            segment; the default of other selectors) or ``"marginal-value"`` (MMG-Vid, arXiv 2508.21044). Each hits the
            total exactly, with a token for every segment if the total allows.
        relevance: ``"late-text"`` (default; ``"text"`` in the later half of the layers, where it tells what the
            question needs, and diversity alone before), ``"none"`` (diversity alone), ``"similarity"`` (the largest
            cosine between the hidden states of a token and of the text tokens after the last visual token) or
            ``"dissimilarity"`` (1 less the cosine with the token before it at the same place; EVS, arXiv 2510.14624) or
            ``"encoder"`` (the attention that its patches receive in the last layer of the vision encoder, where the
            family tells; FastVID, arXiv 2503.11187), which need no attention of the decoder. Or whose attention counts,
            in the layer before the stage (in a hybrid decoder the latest one before it with softmax attention):
            ``"last"`` (the last query token), ``"text"`` (the text tokens after the last visual token), ``"all"`` (the
            mean over all tokens, which favours early ones, as more tokens see them), ``"all-viewers"`` (the mean over
            the tokens that can see each one) or ``"encoder-last"`` (``"encoder"`` before layer 0 and ``"last"`` behind
            it; HoliTom, arXiv 2505.21334).
        relevance_sign: +1 (default) prefers the most relevant tokens, -1 the least relevant, as the published
            segment-wise code does.
        relevance_exponent: in [0, 100], power of the relevance after it is scaled to (0, 1] in each sample: how much it
            weighs against diversity. Default 1, as in CDPruner (arXiv 2506.10967); 0 makes all tokens equal.
        selector: which rule picks the tokens of a segment: ``"dpp"`` (default), ``"dpp-once"`` (which fills up by
            relevance where the kept tokens span the rest), ``"topk"`` (relevance only),
            ``"uniform"`` (evenly spaced), another one of
            :data:`framefusion.reduction.selectors.SELECTORS`, or a registered one.
        gamma: in (0, 20], default 1: the selector ``"dpp"`` takes the Gaussian kernel ``exp(2·gamma·(cos − 1))`` of the
            tokens' directions; None the kernel of cosines, whose rank ends after as many picks as there are dimensions,
            and on real features long before. With the Gaussian kernel, segments of more than 2,048 tokens are cut into
            equal runs of frames (not with ``"single"``), and where one still has more than 4,096, that of cosines is
            taken.
        later_frames: in (0, 1], default 0.95: what tokens behind the first frame of their segment count, for the
            selector ``"dpp"``, relative to those in it. Noise makes every frame of a scene a little new; below 1, a
            scene is rather kept in one piece. 1 makes all frames equal.
        novelty_lower_bound: in (0, 1]; None (default) keeps the exact share. A segment takes no more tokens once the
            *novelty* of all its remaining ones is below this: the share ``d² / r²`` of a token's direction that the
            tokens kept in its segment do not span. ``cost`` and ``keep`` become upper bounds, also at 1.0, and a still
            video costs less than one that is cut fast. What is saved is not spent in other segments, nor in other
            layers. With the selector ``"dpp"`` only.
        keep_lower_bound: share of the original tokens, in [0, 1], that stays in each stage even if nothing new is
            left. Default 0.
        dropped: what becomes of the tokens that a stage does not keep: ``"merge"`` (default; each is averaged into the
            kept token of its segment with the largest cosine, if that reaches ``dropped_lower_bound``) or ``"drop"``. A
            selector that says itself where they go is left to it.
        dropped_lower_bound: cosine in [-1, 1] from which a dropped token merges. Default 0.9: near copies, whose mean
            has less noise than each of them.
        seed: of selectors that draw at random. Default 0.
        images: whether images are reduced as well (default), each one segment of its own; False leaves them as
            they are.

    Raises:
        ValueError: a value is out of range, or two of them contradict each other.
    """

    cost: float | Sequence[float] | None = None
    keep: float | Mapping[int, float] | Sequence[float | Mapping[int, float]] | None = None
    stages: Sequence[tuple[float, float]] | Literal["auto"] | None = None
    merge: bool = False
    similarity_lower_bound: float = 0.6
    ratio_lower_bound: float = 0.1
    segmentation: Segmentation = "dp"
    segment_threshold: float | None = None
    segment_minimum: int = 8
    segment_window: int = 4
    budget_rule: BudgetRule | None = None
    relevance: Relevance = "late-text"
    relevance_sign: int = 1
    relevance_exponent: float = 1.0
    selector: str = "dpp"
    gamma: float | None = 1.0
    later_frames: float = 0.95
    novelty_lower_bound: float | None = None
    keep_lower_bound: float = 0.0
    dropped: Dropped = "merge"
    dropped_lower_bound: float = 0.9
    seed: int = 0
    images: bool = True

    def __post_init__(self) -> None:
        if self.cost is not None and self.keep is not None:
            raise ArgumentError(
                f"cost={self.cost} and keep={self.keep} exclude each other: cost is the mean over all layers, keep "
                "what stays from a layer on. Give one of them (the other is None)."
            )
        if self.cost is None and self.keep is None:
            object.__setattr__(self, "cost", 0.3)
        for name in ("cost", "keep"):
            value = getattr(self, name)
            if isinstance(value, Sequence) and not isinstance(value, str):
                if not value:
                    raise ArgumentError(f"{name} is an empty sequence; give one value for each sample of the batch.")
                object.__setattr__(self, name, tuple(_share(f"{name}[{i}]", item) for i, item in enumerate(value)))
            elif value is not None:
                object.__setattr__(self, name, _share(name, value))
        if not isinstance(self.merge, bool):
            raise ArgumentError(f"merge must be True or False, got {self.merge!r}.")
        if self.stages is not None:
            self._check_stages()
        if not isinstance(self.images, bool):
            raise ArgumentError(f"images must be True or False, got {self.images!r}.")
        _number("similarity_lower_bound", self.similarity_lower_bound, -1, 1)
        _number("dropped_lower_bound", self.dropped_lower_bound, -1, 1)
        _number("ratio_lower_bound", self.ratio_lower_bound, 0, 1)
        _choice("segmentation", self.segmentation, get_args(Segmentation))
        _choice("relevance", self.relevance, get_args(Relevance))
        _choice("selector", self.selector, tuple(SELECTORS))
        if self.budget_rule is None:
            object.__setattr__(self, "budget_rule", "joint" if self.selector == "dpp" else "uniform")
        _choice("budget_rule", self.budget_rule, get_args(BudgetRule))
        _choice("dropped", self.dropped, get_args(Dropped))
        if self.segment_threshold is None:
            object.__setattr__(self, "segment_threshold", SEGMENT_THRESHOLDS.get(self.segmentation))
        else:
            _number("segment_threshold", self.segment_threshold, 0, 1)
        _number("relevance_exponent", self.relevance_exponent, 0, 100)
        if self.gamma is not None:
            _number("gamma", self.gamma, 0, 20, open_below=True)
        _number("later_frames", self.later_frames, 0, 1, open_below=True)
        _whole("segment_minimum", self.segment_minimum, "segments", 1)
        _whole("segment_window", self.segment_window, "frames", 1)
        if not _is_int(self.seed):
            raise ArgumentError(f"seed must be a whole number, got {self.seed!r}.")
        self._check_adaptive()
        if self.relevance_sign not in (1, -1) or isinstance(self.relevance_sign, bool):
            raise ArgumentError(
                f"relevance_sign must be +1 (most attended first) or -1 (least attended first), got "
                f"{self.relevance_sign!r}."
            )
        if self.selector in NEED_RELEVANCE and self.relevance in ("none", "late-text"):
            raise ArgumentError(
                f"selector={self.selector!r} ranks by attention in every stage; it needs another relevance than "
                f"{self.relevance!r}, such as 'last' or 'text'."
            )
        for row in self._rows:
            row._check_relevance(row.keep if isinstance(row.keep, Mapping) else {})

    def _check_stages(self) -> None:
        if self.keep is not None:
            raise ArgumentError(
                f"stages say where a cost is spent, but keep={self.keep} is given; leave one of them out."
            )
        if self.merge:
            raise ArgumentError(
                "stages and merge=True exclude each other: a cost with merge is spent by merging, then by one pruning. "
                "Leave one of them out."
            )
        if isinstance(self.stages, str) and self.stages == AUTO:
            return
        stages = _pairs(self.stages)
        object.__setattr__(self, "stages", None if stages == STAGES else stages)

    def _check_adaptive(self) -> None:
        if self.budget_rule == "joint" and self.selector != "dpp":
            raise ArgumentError(
                f"budget_rule='joint' goes by the gains of selector='dpp'; selector={self.selector!r} has none. Use "
                "budget_rule='uniform' or 'marginal-value'."
            )
        _number("keep_lower_bound", self.keep_lower_bound, 0, 1)
        if self.novelty_lower_bound is None:
            if self.keep_lower_bound:
                raise ArgumentError(
                    f"keep_lower_bound={self.keep_lower_bound} limits what novelty_lower_bound leaves out, and that is "
                    "None; give both, or say how much stays with cost or keep."
                )
            return
        _number("novelty_lower_bound", self.novelty_lower_bound, 0, 1, open_below=True)
        if self.selector != "dpp":
            raise ArgumentError(
                f"novelty_lower_bound goes by the gains of selector='dpp'; selector={self.selector!r} has none. Leave "
                "it out, or use selector='dpp'."
            )
        for row in self._values:
            share = min(row.values()) if isinstance(row, Mapping) else row
            if self.keep is not None and self.keep_lower_bound > share:
                raise ArgumentError(
                    f"keep_lower_bound={self.keep_lower_bound} is more than keep={share}, which is the most that may "
                    "stay."
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
        """Whether these settings reduce nothing (``keep=1.0`` or ``cost=1.0``, without ``novelty_lower_bound``)."""
        return not self.adaptive and all(row._keeps_all for row in self._rows)

    @property
    def segmenter(self) -> Rule:
        """The rule that cuts a video."""
        told: dict[str, dict[str, Any]] = {
            "frame-similarity": {"similarity_lower_bound": self.similarity_lower_bound},
            "dyseg": {"minimum": self.segment_minimum},
            "windows": {"frames": self.segment_window},
        }
        rule, own = SEGMENTATIONS[self.segmentation], told.get(self.segmentation, {})
        if self.segment_threshold is not None and hasattr(rule, "threshold"):
            own = {**own, "threshold": self.segment_threshold}
        return replace(rule, **own) if own else rule  # type: ignore[type-var]

    @property
    def gaussian(self) -> bool:
        """Whether the rule is the DPP with the Gaussian kernel."""
        return self.selector == "dpp" and self.gamma is not None

    @property
    def adaptive(self) -> bool:
        """Whether ``cost`` and ``keep`` are upper bounds, and each video decides how much of that it needs."""
        return self.novelty_lower_bound is not None

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
        return self.merge or any(0 in s and self._reduces(s[0]) for s in (r.shares(layers) for r in self._rows))

    def shares(self, layers: int, first: int = 1) -> dict[int, float]:
        """The stages as ``{layer: share}`` for a decoder of ``layers`` layers; empty with ``cost`` and ``merge``, which
        decides on the way.

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
            return {} if self.merge else pyramid(self.cost, layers, self._first(layers, first), self.steps)
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
        late = self.relevance == "late-text" and first <= late_layer(layers)
        return 1 if late or self.relevance in WITHOUT_ATTENTION else first

    def _check_relevance(self, shares: Mapping[int, float]) -> None:
        if (
            self.selector in NEED_RELEVANCE
            and self.relevance not in (*WITHOUT_ATTENTION, *FROM_ENCODER)
            and shares.get(0, 1.0) < 1
        ):
            raise ArgumentError(
                f"selector={self.selector!r} ranks by attention, and no attention exists before layer 0: start keep at "
                "layer 1 or later (cost: with merge=True), or use relevance='similarity' or 'dissimilarity', or "
                "selector='dpp'."
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
            if row.cost is not None and row.merge:
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
        if self.cost is not None and not self.merge:
            return Pyramid(tokens, layers, self.cost, first=first, steps=self.steps, adaptive=self.adaptive)
        options: dict[str, Any] = {"ratio_lower_bound": self.ratio_lower_bound, "adaptive": self.adaptive}
        if self.cost is not None:
            return Cascade(tokens, layers, self.cost, first=first, **options)
        return Staged(tokens, self.shares(layers, first), merge=self.merge, **options)


def _is_int(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _number(name: str, value: Any, low: float, high: float, *, open_below: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ArgumentError(f"{name} must be a number, got {value!r}.")
    if not (low <= float(value) <= high) or (open_below and value == low):
        raise ArgumentError(f"{name} must be in {'(' if open_below else '['}{low}, {high}], got {value}.")


def _whole(name: str, value: Any, of: str, least: int) -> None:
    if not _is_int(value) or value < least:
        raise ArgumentError(f"{name} must be a whole number of {of}, at least {least}, got {value!r}.")


def _choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ArgumentError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def _share(name: str, value: Any) -> Any:
    if isinstance(value, Mapping) and name.startswith("keep"):
        return _stages(name, value)
    _number(name, value, 0, 1, open_below=True)
    return value


def _stages(name: str, keep: Mapping[Any, Any]) -> dict[int, float]:
    if not keep:
        raise ArgumentError(f"{name} is an empty mapping; give at least one {{layer: share}}, or keep=1.0 to keep all.")
    for layer, share in keep.items():
        if not _is_int(layer) or layer < 0:
            raise ArgumentError(f"{name}: layer {layer!r} must be a whole number, 0 or more.")
        _number(f"{name}[{layer}]", share, 0, 1, open_below=True)
    stages = dict(sorted(keep.items()))
    shares = list(stages.items())
    for (above, more), (layer, share) in pairwise(shares):
        if share > more:
            raise ArgumentError(
                f"{name}[{layer}]={share} is more than {name}[{above}]={more}; shares are of the original tokens and "
                "cannot grow with depth."
            )
    return stages


def _pairs(stages: Any) -> Stages:
    """Stages of a cost as plain pairs; refuses others by name."""
    if isinstance(stages, str) or not isinstance(stages, Sequence) or not stages:
        raise ArgumentError(
            f"stages must be 'auto' or (depth, share) pairs such as ((0, 1), (2 / 3, 0.25)), got {stages!r}."
        )
    for i, pair in enumerate(stages):
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise ArgumentError(f"stages[{i}] must be a pair of depth and share, got {pair!r}.")
        depth, share = pair
        _number(f"the depth of stages[{i}]", depth, 0, 1)
        if depth == 1:
            raise ArgumentError(f"the depth of stages[{i}] must be below 1, which is behind the last layer.")
        _number(f"the share of stages[{i}]", share, 0, 1, open_below=True)
    pairs = tuple((float(depth), float(share)) for depth, share in stages)
    if pairs[0][1] != 1:
        raise ArgumentError(
            f"the share of stages[0] must be 1, got {pairs[0][1]:g}: shares are of what the first stage keeps, and the "
            "cost says how much that is."
        )
    for i, ((depth, share), (later, less)) in enumerate(pairwise(pairs), start=1):
        if later <= depth:
            raise ArgumentError(f"depths of stages must ascend, but that of stages[{i}], {later:g}, follows {depth:g}.")
        if less > share:
            raise ArgumentError(f"shares of stages cannot grow, but that of stages[{i}], {less:g}, follows {share:g}.")
    return pairs


def parse_stages(text: str) -> Stages | Literal["auto"]:
    """``stages`` from a text: ``"auto"``, or depth and share of each stage, ``"0:1,0.67:0.25"`` or ``"0:1+0.67:0.25"``.

    Raises:
        ValueError: it is neither, or :class:`FrameFusion` refuses the pairs.
    """
    if text == AUTO:
        return "auto"
    try:
        pairs = [part.split(":") for part in text.replace("+", ",").split(",")]
        stages = [(float(depth), float(share)) for depth, share in pairs]
    except ValueError:
        raise ArgumentError(
            f"stages must be auto or DEPTH:SHARE pairs such as 0:1,0.67:0.25 (or 0:1+0.67:0.25), got {text!r}."
        ) from None
    return _pairs(stages)


def stages_text(stages: Stages) -> str:
    """Stages as :func:`parse_stages` reads them, rounded to four digits."""
    return ",".join(f"{depth:.4g}:{share:.4g}" for depth, share in stages)


def parse_keep(text: str) -> float | dict[int, float]:
    """``keep`` from a text: ``"0.2"``, or layer and share of each stage, ``"2:0.5,14:0.1"`` or ``"2:0.5+14:0.1"``.

    Raises:
        ValueError: it is neither, or names a layer twice; what it says follows the name of the option.
    """
    try:
        if ":" not in text:
            return float(text)
        pairs = [part.split(":") for part in text.replace("+", ",").split(",")]
        stages = {int(layer): float(share) for layer, share in pairs}
    except ValueError:
        raise ArgumentError(
            f"must be a share such as 0.2 or LAYER:SHARE pairs such as 2:0.5,14:0.1 (or 2:0.5+14:0.1), got {text!r}."
        ) from None
    if len(stages) < len(pairs):
        raise ArgumentError(f"names a layer twice: {text!r}.")
    return stages
