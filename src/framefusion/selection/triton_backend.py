"""Greedy MAP in Triton: Gram matrices, scaling and the whole greedy loop of all segments of all samples in one launch
each.

Segments of more than 1,024 tokens take a launch for each step instead, those without a Gram matrix (pivoted
Gram–Schmidt, see :mod:`framefusion.selection.gram_schmidt`) two. Nothing is read back to the host, and with a
:class:`~framefusion.selection.triton_plan.DevicePlan` made beforehand nothing is sent either, so :func:`run` can be
captured in a CUDA graph once it has run (and so compiled) before.

What does read from the device: ``check_finite=True``, and ``exhausted="stop"``, whose result has a length that only
the device knows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from framefusion.errors import ArgumentError
from framefusion.selection import gram_schmidt
from framefusion.selection import triton_kernels as kernels
from framefusion.selection.gram import NonFiniteFeaturesError
from framefusion.selection.numerics import accumulation_dtype, fill_exhausted, safe_square_range, scale_by_peak
from framefusion.selection.plan import Picks
from framefusion.selection.problem import Answer, Problem
from framefusion.selection.triton_plan import DevicePlan, Group, Place, device_plan, matrices_group

OWN_STEPS = frozenset({"long"})


def check_device(device: torch.device) -> None:
    """Raise a ValueError where the kernels cannot run."""
    if device.type != "cuda" and not kernels.INTERPRETED:
        raise ArgumentError(
            f"backend 'triton' runs on CUDA devices, features are on {device}; move them there, or use backend='auto'"
        )


def select(problem: Problem) -> Answer:
    """What each segment of each sample keeps; see :class:`~.backends.Backend`.

    ``exhausted="stop"`` and ``check_finite`` wait for the device. Features whose columns are not adjacent are copied.
    """
    features, early_stop = problem.features, problem.exhausted == "stop"
    plan = device_plan(problem.samples, features.shape[-1], features.dtype, features.device, problem.long_segment)
    local, trace = run(
        plan,
        features,
        problem.relevance,
        fill=not early_stop,
        check_finite=problem.check_finite,
        traced=problem.traced,
        gamma=problem.gamma,
    )
    counts = [count for own in plan.counts for count in own]
    rows = plan.rows[plan.origin + local.clamp(min=0)].split(counts) if plan.picks else [local] * len(counts)
    notes = [None] * len(counts) if trace is None else trace.split(counts)
    picks = [Picks(*pair) for pair in zip(rows, notes, strict=True)]
    if early_stop:
        kept = [int(own.sum()) for own in (local >= 0).cpu().split(counts)]
        picks = [p.first(n) for p, n in zip(picks, kept, strict=True)]
    every = iter(picks)
    return [[next(every) for _ in own] for own in plan.counts]


def select_from_kernel(kernel: Tensor, diagonal: Tensor, count: int) -> Tensor:
    """See :class:`~.backends.Backend`."""
    length, wanted = (torch.tensor([v], device="cpu") for v in (len(kernel), count))
    own = diagonal[None].contiguous()
    return greedy_map(kernel[None].contiguous(), torch.ones_like(own), own, length, wanted)[0]


def run(
    plan: DevicePlan,
    features: Tensor,
    relevance: Tensor | None,
    *,
    fill: bool = True,
    check_finite: bool = False,
    traced: bool = False,
    gamma: float | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Select by a plan; without ``check_finite`` in launches alone.

    Args:
        plan: made for the width and dtype of the features.
        features: (B, N, D), any float dtype; copied first if columns are not adjacent.
        relevance: (B, N), any float dtype and layout, on the features' device; None is uniform relevance.
        check_finite, traced, gamma: see :class:`~framefusion.selection.problem.Problem`.
        fill: give what is left of the budget of an exhausted segment to its remaining tokens.

    Returns:
        (K,) int64 positions inside the segments, −1 where an exhausted segment has no pick; their rows in the samples
        are ``plan.rows[plan.origin + positions]``. And (K, 2) float64 gains and novelties, None if not ``traced``.
    """
    if features.shape[-1] != plan.feature_dim or features.dtype != plan.dtype:
        raise ArgumentError(
            f"features must have the width {plan.feature_dim} and dtype {plan.dtype} of the plan, "
            f"got {features.shape[-1]} and {features.dtype}"
        )
    if features.stride(-1) != 1:
        features = features.contiguous()
    with torch.autocast(features.device.type, enabled=False), torch.cuda.device_of(features):
        task = _Run(plan, features.detach(), None if relevance is None else relevance.detach(), traced, gamma)
        for group in plan.groups:
            task.select(group, fill, check_finite)
    return task.picks, task.trace


def greedy_map(
    gram: Tensor, scale: Tensor, diagonal: Tensor, lengths: Tensor, counts: Tensor, trace: Tensor | None = None
) -> Tensor:
    """Greedy MAP of S determinantal point processes, ``L[i, j] = gram[i, j] · scale[i] · scale[j]``.

    Args:
        gram: (S, w, w) float32 or float64, contiguous.
        scale: (S, w), same dtype, contiguous; 0 excludes a candidate.
        diagonal: (S, w) exact L[i, i], same dtype, contiguous; 0 excludes a candidate.
        lengths: (S,) int64 on the CPU, valid candidates of each.
        counts: (S,) int64 on the CPU, picks wanted of each, at most its length.
        trace: (S, max count, 2) zeros, same dtype, contiguous, to be filled with each pick's gain and the novelty
            before it, see :class:`~framefusion.selection.plan.Picks`; None does not ask for them.

    Returns:
        (S, max count) int64 in greedy order, −1 after the last pick of each.
    """
    check_device(gram.device)
    group = matrices_group(lengths, counts, gram.shape[-1], gram.device)
    picks = torch.full((len(gram), group.steps), -1, device=gram.device)
    exponents = torch.zeros(len(gram), dtype=torch.int64, device=gram.device)
    with torch.cuda.device_of(gram):
        if group.resident:
            _greedy_resident(group, gram, scale, diagonal, diagonal, exponents, picks, trace, False, None)
        else:
            steps = _Steps(group, diagonal, kernels.STEP_TILE)
            _greedy_steps(group, steps, gram, scale, diagonal, exponents, picks, trace, None)
    return picks


class _Run:
    """One selection: the tensors that its launches share."""

    def __init__(
        self, plan: DevicePlan, features: Tensor, relevance: Tensor | None, traced: bool, gamma: float | None
    ) -> None:
        self.plan, self.features, self.relevance, self.gamma = plan, features, relevance, gamma
        self.dtype = accumulation_dtype(features.dtype)
        new = features.new_empty
        tokens = len(plan.rows)
        self.norms, self.scale, self.diagonal = (new(tokens, dtype=self.dtype) for _ in range(3))
        self.weights = new(tokens, dtype=torch.float64)
        self.picks = features.new_full((plan.picks,), -1, dtype=torch.int64)
        self.trace = features.new_zeros(plan.picks, 2, dtype=torch.float64) if traced else None

    def select(self, group: Group, fill: bool, check_finite: bool) -> None:
        """Select from the segments of one group."""
        wide = self.features.shape[-1] * self.dtype.itemsize > kernels.DIRECTION_BYTES
        if not group.has_gram and (wide or self.gamma is not None):
            for place in group.places:
                self._gram_schmidt_in_torch(place, fill, check_finite)
            return
        gram = self.features.new_empty(group.gram_size, dtype=self.dtype)
        self._measure(group, gram, self.features, self.plan.rows, group.pairs)
        elsewhere = self._mend(group, gram) if check_finite else []
        exponents = self._scale(group)
        if group.resident:
            _greedy_resident(
                group,
                gram,
                self.scale,
                self.diagonal,
                self.weights,
                exponents,
                self.picks,
                self.trace,
                fill,
                self.gamma,
            )
            return
        if group.has_gram:
            steps = _Steps(group, self.diagonal, kernels.STEP_TILE)
            _greedy_steps(group, steps, gram, self.scale, self.diagonal, exponents, self.picks, self.trace, self.gamma)
        else:
            self._gram_schmidt(group, exponents)
        if fill:
            self._fill(group)
        for place in elsewhere:
            self._gram_schmidt_in_torch(place, fill, check_finite)

    def _measure(self, group: Group, gram: Tensor, features: Tensor, rows: Tensor, pairs: Tensor) -> None:
        """Gram matrices and squared norms, or squared norms alone."""
        source = (features, *features.stride()[:2], features.shape[-1], rows, group.table)
        if group.has_gram:
            options = kernels.gram_options(features.dtype)
            kernels.gram_tiles[(len(pairs),)](*source, pairs, gram, self.norms, **options)
        else:
            options = kernels.rows_options(features.dtype)
            kernels.row_norms[(len(group.tiles),)](*source, group.tiles, self.norms, **options)

    def _mend(self, group: Group, gram: Tensor) -> list[Place]:
        """Read the squared norms on the host, and measure segments again whose norms leave the dtype's range.

        Returns:
            Segments without a Gram matrix for which the kernels cannot do that.
        """
        low, high = safe_square_range(self.dtype)
        in_range = ((self.norms > low) & (self.norms < high)).cpu()
        elsewhere = []
        for s, place in enumerate(group.places):
            part = slice(place.first, place.first + len(place.segment))
            if bool(in_range[part].all()):
                continue
            if not group.has_gram:
                elsewhere.append(place)
                continue
            x = self.features[place.sample].index_select(0, self.plan.rows[part]).to(self.dtype)
            peak = x.abs().amax(dim=1, keepdim=True)
            if not bool(torch.isfinite(peak).all()):
                raise NonFiniteFeaturesError
            x = scale_by_peak(x, peak).expand(len(self.features), -1, -1)
            local = torch.zeros_like(self.plan.rows)
            local[part] = torch.arange(len(place.segment), device=local.device)
            self._measure(group, gram, x, local, group.pairs[group.pairs[:, 0] == s])
        return elsewhere

    def _scale(self, group: Group) -> Tensor:
        """Diagonal scalings; returns (S,) the exponents of the segments' relevance."""
        exponents = self.features.new_empty(len(group.places), dtype=torch.int64)
        relevance = self.weights if self.relevance is None else self.relevance
        strides = (0, 0) if self.relevance is None else relevance.stride()
        kernels.scale_segments[(len(group.places),)](
            relevance, *strides, self.plan.rows, group.table, self.norms, self.scale, self.diagonal, self.weights,
            exponents, UNIFORM=self.relevance is None, **kernels.scale_options(),
        )  # fmt: skip
        return exponents

    def _gram_schmidt(self, group: Group, exponents: Tensor) -> None:
        steps = _Steps(group, self.diagonal, kernels.ROW_TILE)
        directions = self.scale.new_empty(group.state_size)
        source = (self.features, *self.features.stride()[:2], self.features.shape[-1], self.plan.rows)
        trace = self.weights if self.trace is None else self.trace
        of_direction = kernels.direction_options(self.features.shape[-1])
        of_projection = kernels.project_options(self.features.dtype, self.dtype)
        for t in range(group.steps):
            kernels.next_direction[(len(group.places),)](
                *source, self.scale, exponents, group.table, t, directions, *steps.partial, self.picks, trace,
                TRACED=self.trace is not None, **of_direction,
            )  # fmt: skip
            kernels.project[(len(group.tiles),)](
                *source, self.scale, self.diagonal, group.table, group.tiles, t, directions, steps.gain,
                *steps.partial, self.picks, **of_projection,
            )  # fmt: skip

    def _fill(self, group: Group) -> None:
        for s, place in enumerate(group.places):
            own = self.picks[place.picks : place.picks + place.segment.count]
            weights = self.weights[place.first : place.first + len(place.segment)]
            length = group.table[s : s + 1, kernels.LENGTH.value]
            count = torch.full_like(length, place.segment.count)
            own.copy_(fill_exhausted(own[None], weights[None], length, count)[0])

    def _gram_schmidt_in_torch(self, place: Place, fill: bool, check_finite: bool) -> None:
        """What the kernels cannot do: a long segment of wide features or with the Gaussian kernel, or one whose rows
        must be rescaled."""
        relevance = None if self.relevance is None else self.relevance[place.sample].double()
        features, traced = self.features[place.sample], self.trace is not None
        rows, trace = gram_schmidt.select_segment(
            features, relevance, place.segment, not fill, check_finite, traced, gamma=self.gamma
        )[:2]
        kept = slice(place.picks, place.picks + len(rows))
        own = self.plan.rows[place.first : place.first + len(place.segment)]
        every = slice(place.picks, place.picks + place.segment.count)
        self.picks[every] = -1
        self.picks[kept] = torch.searchsorted(own, rows)
        if self.trace is not None and trace is not None:
            self.trace[every] = 0
            self.trace[kept] = trace


class _Steps:
    """What the steps of long segments hand on: gains (T,), and the maxima of each tile, twice.

    Attributes:
        gain: (T,) like the diagonal.
        partial: gains, positions and novelties, (2, P) each; a step that reads one half leaves the other.
    """

    def __init__(self, group: Group, diagonal: Tensor, tile: int) -> None:
        size = (2, len(group.tiles))
        self.gain = torch.empty_like(diagonal)
        self.partial = (diagonal.new_empty(size), diagonal.new_empty(size, dtype=torch.int64), diagonal.new_empty(size))
        kernels.first_gains[(len(group.tiles),)](
            diagonal, group.table, group.tiles, self.gain, *self.partial, **kernels.start_options(tile, diagonal.dtype)
        )


def _greedy_resident(
    group: Group, gram: Tensor, scale: Tensor, diagonal: Tensor, weights: Tensor, exponents: Tensor, picks: Tensor,
    trace: Tensor | None, fill: bool, gamma: float | None,
) -> None:  # fmt: skip
    """Greedy MAP of segments that one program can hold, all steps of all of them in one launch."""
    cholesky = gram.new_empty(group.state_size)
    kernels.greedy_resident[(len(group.table),)](
        gram, scale, diagonal, weights, exponents, group.table, cholesky, picks, gram if trace is None else trace,
        FILL=fill, TRACED=trace is not None, GAMMA=gamma or 0.0,
        **kernels.resident_options(group.width, diagonal.dtype),
    )  # fmt: skip


def _greedy_steps(
    group: Group, steps: _Steps, gram: Tensor, scale: Tensor, diagonal: Tensor, exponents: Tensor, picks: Tensor,
    trace: Tensor | None, gamma: float | None,
) -> None:  # fmt: skip
    """Greedy MAP of segments that no program can hold, a launch for each step."""
    cholesky = gram.new_empty(group.state_size)
    options: dict[str, Any] = kernels.step_options(diagonal.dtype)
    for t in range(group.steps):
        kernels.greedy_step[(len(group.tiles),)](
            gram, scale, diagonal, exponents, group.table, group.tiles, t, steps.gain, cholesky, *steps.partial,
            len(group.tiles), picks, gram if trace is None else trace, TRACED=trace is not None, GAMMA=gamma or 0.0,
            **options,
        )  # fmt: skip
