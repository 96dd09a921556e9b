"""The public selection functions: check the arguments, choose a backend, put the segments' results
together."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Literal, NoReturn, overload

import torch
from torch import Tensor

from framefusion.errors import ArgumentError, ArgumentTypeError, MissingDependencyError
from framefusion.selection import gram_schmidt, ops, reference, restart, torch_backend
from framefusion.selection import joint as joint_selection
from framefusion.selection import validation as check
from framefusion.selection.gram import NonFiniteFeaturesError
from framefusion.selection.nearest import most_similar_kept
from framefusion.selection.novelty import until_nothing_new
from framefusion.selection.numerics import accumulation_dtype, fill_exhausted
from framefusion.selection.plan import Budgets, Picks, Segment, plan_segments

BACKENDS = ("auto", "torch", "numba", "triton", "reference")

LONG_SEGMENT = 4096
"""Segments of more tokens than this go through pivoted Gram–Schmidt: their Gram matrix would exceed 64 MiB in
float32."""


@overload
def select_tokens(
    features: Tensor,
    relevance: Tensor | None = None,
    segments: Tensor | Sequence[int] | None = None,
    budgets: Budgets | Sequence[Any] | None = None,
    *,
    backend: str = "auto",
    exhausted: str = "fill",
    check_finite: bool | None = None,
    joint: bool = False,
    novelty_lower_bound: float = 0.0,
    at_least: int = 0,
    gamma: float | None = None,
    return_gains: Literal[False] = False,
) -> Tensor | list[Tensor]: ...


@overload
def select_tokens(
    features: Tensor,
    relevance: Tensor | None = None,
    segments: Tensor | Sequence[int] | None = None,
    budgets: Budgets | Sequence[Any] | None = None,
    *,
    backend: str = "auto",
    exhausted: str = "fill",
    check_finite: bool | None = None,
    joint: bool = False,
    novelty_lower_bound: float = 0.0,
    at_least: int = 0,
    gamma: float | None = None,
    return_gains: Literal[True],
) -> tuple[Tensor, Tensor] | tuple[list[Tensor], list[Tensor]]: ...


@torch.no_grad()
def select_tokens(
    features: Tensor,
    relevance: Tensor | None = None,
    segments: Tensor | Sequence[int] | None = None,
    budgets: Budgets | Sequence[Any] | None = None,
    *,
    backend: str = "auto",
    exhausted: str = "fill",
    check_finite: bool | None = None,
    joint: bool = False,
    novelty_lower_bound: float = 0.0,
    at_least: int = 0,
    gamma: float | None = None,
    return_gains: bool = False,
) -> Tensor | list[Tensor] | tuple[Tensor, Tensor] | tuple[list[Tensor], list[Tensor]]:
    """Select visual tokens by greedy MAP of a determinantal point process in each temporal segment.

    Per segment S the kernel is ``L[i, j] = r[i] · cos(X[i], X[j]) · r[j]`` over the tokens of S (Chen, Zhang & Zhou
    2018, "Fast Greedy MAP Inference for Determinantal Point Process"), or with ``gamma`` the Gaussian kernel ``r[i] ·
    exp(−γ ‖X[i]/‖X[i]‖ − X[j]/‖X[j]‖‖²) · r[j]`` of the directions. Products are accumulated in float32 (float64 for
    float64 features). Ties go to the lowest index. The same input gives bitwise the same output on one backend,
    whatever the batch around it.

    Args:
        features: (N, D) or (B, N, D), float16, bfloat16, float32 or float64: one row per token in sequence
            order. Rows outside every segment are not read.
        relevance: (N,) or (B, N) importance ≥ 0 of each token, any float dtype; None is uniform relevance.
        segments: (N,) or (B, N) integer segment ids ≥ 0, in any order; −1 marks tokens outside every segment.
            None is one segment 0. Read on the host: pass a CPU tensor to avoid a device synchronisation.
        budgets: tokens to keep. A mapping from segment id to count: the result follows its order, segments it
            does not name keep nothing, and an id that does not occur is an empty segment. A sequence: one
            count per segment id that occurs in ``segments``, ascending. An integer: the total of a sample,
            split over its segments by largest remainder over their lengths, ties to the lower id. For a
            batch, a sequence of B such mappings or sequences gives each sample its own. Counts above a
            segment's length keep all of it.
        backend: "numba" (CPU only; compiled at the first call, see :func:`warm_up`), "triton" (CUDA only; all samples
            share launches), "torch" (any device), "reference" (textbook float64 on the full N × N matrix, at most
            8,192 tokens) or "auto": numba on the CPU, triton on CUDA where it is installed, torch elsewhere. With any
            but "reference", segments of more than 4,096 tokens use pivoted Gram–Schmidt.
        exhausted: a candidate is exhausted when its gain falls to ``64 · eps · r[i]²`` (``eps`` of the
            accumulation dtype): a duplicate, a zero vector, or a token in the span of the chosen ones. When
            all candidates of a segment are, "fill" gives the rest of the budget to the remaining tokens by
            relevance, then by index, "stop" returns fewer tokens, and "restart" begins a new greedy over the
            remaining tokens (and fills up when only zero vectors are left); not with ``joint`` or
            ``novelty_lower_bound``, which compare gains.
        check_finite: check for NaN and Inf, and rescale rows whose squares leave the accumulation dtype. None
            checks on the CPU only, because elsewhere it forces a synchronisation. Unchecked bad rows count as
            zero vectors.
        joint: spend an integer budget where the gains are largest, whatever the segments: greedy MAP of the kernel
            that has zeros between segments. Every segment keeps a token if the total allows. The result follows the
            ascending ids.
        novelty_lower_bound: in [0, 1]. A segment takes no more tokens once the novelty ``d²[i] / r[i]²`` of all its
            remaining ones, the share of their direction that the chosen ones do not span, lies below this. What is
            saved is not spent elsewhere: the budgets become upper bounds. Default 0, never.
        at_least: tokens that a sample keeps all the same, if its budgets allow; split over the segments by largest
            remainder over what they would keep otherwise. Default 0.
        gamma: in (0, 20], width of the Gaussian kernel ``exp(2γ (cos − 1))``. The kernel of cosines (None, the
            default) has no rank left after D picks, and on real features far fewer; this one has full rank, so only
            copies and zero vectors exhaust it. Segments of more than 4,096 tokens then take O(count · tokens) memory.
        return_gains: also return the gain of each pick: its ``d²`` when it was picked, the factor by which it made
            the determinant of the picks grow. Computed in the accumulation dtype.

    Returns:
        (K,) int64 on the features' device, indices into the N tokens: greedy order within a segment, segments
        in the order of the budgets. A list of B such tensors for (B, N, D).

        With ``return_gains`` a pair of these and of as many gains, float64 on the same device. They never increase
        within a segment (but where a new greedy begins), and are 0 for tokens that fill up an exhausted segment.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument has the wrong shape, range or choice, or holds NaN or Inf (named with its
            position).
    """
    if torch.compiler.is_compiling():
        traced_result: Any = ops.traced_select_tokens(
            features,
            relevance,
            segments,
            budgets,
            return_gains,
            backend=backend,
            exhausted=exhausted,
            check_finite=check_finite,
            joint=joint,
            novelty_lower_bound=novelty_lower_bound,
            at_least=at_least,
            gamma=gamma,
        )
        return traced_result
    features = check.check_features(features)
    check.check_choice(backend, "backend", BACKENDS)
    check.check_choice(exhausted, "exhausted", check.EXHAUSTED)
    if check_finite is None:
        check_finite = features.device.type == "cpu"
    shape = features.shape[:-1]
    batched = features.dim() == 3
    relevance = check.check_relevance(relevance, shape, check_finite)
    ids = check.check_segments(segments, shape)
    check.check_share(novelty_lower_bound, "novelty_lower_bound")
    at_least = check.check_count(at_least, "at_least")
    wanted = check.check_budgets(budgets, ids, batched)
    gamma = check.check_gamma(gamma)
    if exhausted == "restart" and (joint or novelty_lower_bound > 0):
        raise ArgumentError("exhausted must be 'fill' or 'stop' with joint or novelty_lower_bound, got 'restart'")
    total = check.check_total(wanted) if joint else None
    plans = [plan_segments(row, *b, joint) for row, b in zip(ids, wanted, strict=True)]
    traced = return_gains or novelty_lower_bound > 0
    kept, gains = [], []
    together = None
    if total is None and exhausted != "restart" and resolve_backend(backend, features.device) == "triton":
        together = _select_together(features, relevance, plans, exhausted, check_finite, traced, gamma)
    for b, plan in enumerate(plans):
        own = features[b] if batched else features
        weight = relevance[b] if batched and relevance is not None else relevance
        try:
            if together is not None:
                picks = together[b]
            else:
                picks = _select(own, weight, plan, backend, exhausted, check_finite, traced, total, gamma)
        except NonFiniteFeaturesError:
            _raise_non_finite(own, plan, (b,) if batched else ())
        if novelty_lower_bound > 0:
            picks = until_nothing_new(picks, novelty_lower_bound, at_least)
        kept.append(_joined([p.rows for p in picks], own))
        if return_gains:
            gains.append(_joined([p.trace[:, 0] for p in picks if p.trace is not None], own, torch.float64))
    if not batched:
        return (kept[0], gains[0]) if return_gains else kept[0]
    return (kept, gains) if return_gains else kept


def _select_together(
    features: Tensor,
    relevance: Tensor | None,
    plans: Sequence[Sequence[Segment]],
    exhausted: str,
    check_finite: bool,
    traced: bool,
    gamma: float | None,
) -> list[list[Picks]]:
    """What each segment of each sample keeps, by the Triton backend, whose launches all samples share."""
    triton_backend = _triton_backend()
    batched = features.dim() == 3
    if relevance is not None:
        relevance = (relevance if batched else relevance[None]).to(features.device)
    stacked = features if batched else features[None]
    try:
        return triton_backend.select(
            stacked, relevance, plans, exhausted == "stop", check_finite, traced, LONG_SEGMENT, gamma
        )
    except NonFiniteFeaturesError as error:
        (b,) = error.args
        _raise_non_finite(stacked[b], plans[b], (b,) if batched else ())


def _joined(parts: Sequence[Tensor], features: Tensor, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.cat(list(parts)) if parts else torch.empty(0, dtype=dtype, device=features.device)


@torch.no_grad()
def select_and_assign(
    features: Tensor,
    relevance: Tensor | None,
    segments: Tensor,
    budgets: Budgets,
    *,
    exhausted: str = "fill",
    gamma: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`select_tokens` for one sample, and for each token the most similar one that its segment keeps.

    On the CPU both come from the same Gram matrices.

    Args:
        features, relevance, segments, budgets, exhausted, gamma: as in :func:`select_tokens`; (N, D).

    Returns:
        (K,) int64 on the features' device, tokens to keep. (N,) int64 on the CPU, the kept token of its segment with
        the largest cosine (itself for a kept one, ties to the lowest index), −1 where that keeps none or for tokens
        outside every segment. (N,) float32 on the CPU, that cosine, −Inf where there is none.

    Raises:
        TypeError, ValueError: as :func:`select_tokens`, and for a batch.
    """
    features = check.check_features(features)
    if features.dim() != 2:
        raise ArgumentError(
            f"features must have shape (N, D), got {tuple(features.shape)}; select_tokens takes batches"
        )
    check.check_choice(exhausted, "exhausted", check.EXHAUSTED)
    shape = features.shape[:1]
    ids = check.check_segments(segments, shape)
    gamma = check.check_gamma(gamma)
    plan = plan_segments(ids[0], *check.check_budgets(budgets, ids, False)[0])
    if resolve_backend("auto", features.device) != "numba" or any(len(s) > LONG_SEGMENT for s in plan):
        chosen = select_tokens(features, relevance, segments, budgets, exhausted=exhausted, gamma=gamma)
        assert isinstance(chosen, Tensor)
        kept = torch.zeros(shape, dtype=torch.bool, device="cpu")
        kept[chosen.cpu()] = True
        return chosen, *most_similar_kept(features, torch.tensor(ids[0], device="cpu"), kept)
    from framefusion.selection import numba_backend

    relevance = check.check_relevance(relevance, shape, True)
    weights = None if relevance is None else relevance.detach().to(features.device, torch.float64)
    try:
        return numba_backend.select_and_assign(features.detach(), weights, plan, exhausted, True, gamma)
    except NonFiniteFeaturesError:
        _raise_non_finite(features, plan, ())


@torch.no_grad()
def select_in_segments(
    features: Tensor,
    relevance: Tensor | None,
    segments: Sequence[Segment],
    *,
    backend: str = "auto",
    exhausted: str = "fill",
    check_finite: bool | None = None,
    gamma: float | None = None,
) -> Tensor:
    """:func:`select_tokens` for one sample whose segments are planned already; checks nothing but NaN and
    Inf.

    Args:
        features: (N, D).
        relevance: (N,) on any device, or None.
        segments: :class:`Segment` for each segment, in the order of the result; see :func:`make_segment`.
        backend, exhausted, check_finite, gamma: as in :func:`select_tokens`.

    Returns:
        (K,) int64 on the features' device.
    """
    if torch.compiler.is_compiling():
        return ops.traced_select_in_segments(
            features, relevance, segments, backend=backend, exhausted=exhausted, check_finite=check_finite, gamma=gamma
        )
    if check_finite is None:
        check_finite = features.device.type == "cpu"
    try:
        picks = _select(features, relevance, segments, backend, exhausted, check_finite, gamma=gamma)
    except NonFiniteFeaturesError:
        _raise_non_finite(features, segments, ())
    return _joined([p.rows for p in picks], features)


def _select(
    features: Tensor,
    relevance: Tensor | None,
    segments: Sequence[Segment],
    backend: str,
    exhausted: str,
    check_finite: bool,
    traced: bool = False,
    total: int | None = None,
    gamma: float | None = None,
) -> list[Picks]:
    """What each segment keeps; with a ``total``, what it keeps of that."""
    if relevance is not None:
        relevance = relevance.detach().to(features.device, torch.float64)
    features = features.detach()

    def sequences(weights: Tensor | None, wanted: Sequence[Segment]) -> list[Picks]:
        return _select_exactly(features, weights, wanted, backend, "stop", check_finite, True, gamma)

    # Autocast would take the products in half precision, and so select other tokens.
    with torch.autocast(features.device.type, enabled=False):
        if total is None:
            return _select_exactly(features, relevance, segments, backend, exhausted, check_finite, traced, gamma)
        if backend == "reference":
            _check_finite(features, segments)
            return reference.select_jointly(features, relevance, segments, total, exhausted == "stop", gamma)
        return joint_selection.select(sequences, relevance, segments, total, exhausted == "stop")


def _select_exactly(
    features: Tensor,
    relevance: Tensor | None,
    segments: Sequence[Segment],
    backend: str,
    exhausted: str,
    check_finite: bool,
    traced: bool,
    gamma: float | None,
) -> list[Picks]:
    resolved = resolve_backend(backend, features.device)
    compiled = resolved == "numba"
    early_stop = exhausted == "stop"
    if exhausted == "restart" and not compiled:

        def run(wanted: Sequence[Segment], until: str) -> list[Picks]:
            return _select_exactly(features, relevance, wanted, backend, until, check_finite, traced, gamma)

        return restart.select(run, segments)
    if backend == "reference":
        _check_finite(features, segments)
        return reference.select(features, relevance, segments, early_stop, gamma)
    if resolved == "triton":
        weights = None if relevance is None else relevance[None]
        samples = [segments]
        return _triton_backend().select(
            features[None], weights, samples, early_stop, check_finite, traced, LONG_SEGMENT, gamma
        )[0]
    rows = torch.empty(0, dtype=torch.int64, device=features.device)
    nothing = Picks(rows, rows.new_empty(0, 2, dtype=torch.float64) if traced else None)
    picks = [nothing for _ in segments]
    short: list[tuple[int, Segment]] = []
    for place, segment in enumerate(segments):
        if len(segment) <= LONG_SEGMENT:
            short.append((place, segment))
        elif segment.count > 0:
            picks[place] = gram_schmidt.select_segment(
                features, relevance, segment, early_stop, check_finite, traced, exhausted == "restart", gamma
            )
    own = [segment for _, segment in short]
    if compiled:
        # Numba takes half a second to import; only those who select on the CPU pay for it.
        from framefusion.selection import numba_backend

        results = numba_backend.select(features, relevance, own, exhausted, check_finite, traced, gamma)
    else:
        results = torch_backend.select(features, relevance, own, early_stop, check_finite, traced, gamma)
    for (place, _), result in zip(short, results, strict=True):
        picks[place] = result
    return picks


def _check_finite(features: Tensor, segments: Sequence[Segment]) -> None:
    for segment in segments:
        if not bool(torch.isfinite(features[segment.rows.to(features.device)]).all()):
            raise NonFiniteFeaturesError


def resolve_backend(backend: str, device: torch.device) -> str:
    """The backend that a name stands for on a device.

    Raises:
        ValueError: the backend does not run there.
    """
    if backend == "auto":
        if device.type == "cpu":
            return "numba"
        return "triton" if device.type == "cuda" and find_spec("triton") else "torch"
    if backend == "numba" and device.type != "cpu":
        raise ArgumentError(f"backend 'numba' runs on the CPU, features are on {device}; use backend='torch' or 'auto'")
    return backend


def _triton_backend() -> Any:
    # Only those who select on CUDA pay for importing Triton.
    if find_spec("triton") is None:
        raise MissingDependencyError(
            "backend 'triton' needs the package triton, which torch brings along on Linux; install it, or use "
            "backend='auto'"
        )
    from framefusion.selection import triton_backend

    return triton_backend


def _raise_non_finite(features: Tensor, segments: Sequence[Segment], prefix: tuple[int, ...]) -> NoReturn:
    rows = torch.cat([s.rows for s in segments if s.count > 0]).sort().values.to(features.device)
    row, column = check.first_true(~torch.isfinite(features[rows]))
    position = (*prefix, int(rows[row]), column)
    check.raise_not_finite("features", features[int(rows[row]), column].item(), position)


def warm_up(dtype: torch.dtype = torch.float32) -> None:
    """Compile the Numba backend for features of ``dtype`` ahead of its first use; half precision uses float32."""
    from framefusion.selection import numba_backend

    numba_backend.warm_up(dtype)


@torch.no_grad()
def greedy_map(kernel: Tensor, k: int, *, exhausted: str = "fill", backend: str = "auto") -> Tensor:
    """Greedy MAP of a determinantal point process with a given kernel matrix.

    Args:
        kernel: (n, n) symmetric positive semidefinite matrix, any float dtype; half precision is computed in
            float32.
        k: tokens to pick, at least 0; at most n are returned.
        exhausted: "fill" picks exactly min(k, n), the rest by descending diagonal, then by index; "stop"
            returns fewer when every candidate is exhausted, see :func:`select_tokens`.
        backend: "auto", "torch", "numba", "triton" or "reference", as in :func:`select_tokens`.

    Returns:
        (min(k, n),) int64 on the kernel's device, greedy order.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, shape or range, or the kernel holds NaN or
            Inf.
    """
    if torch.compiler.is_compiling():
        return ops.greedy_map(kernel, k, exhausted, backend)
    if not isinstance(kernel, Tensor):
        raise ArgumentTypeError(f"kernel must be a torch.Tensor, got {type(kernel).__name__}")
    if kernel.dtype not in check.FEATURE_DTYPES:
        raise ArgumentTypeError(f"kernel must have a float dtype, got {kernel.dtype}")
    if kernel.dim() != 2 or kernel.shape[0] != kernel.shape[1]:
        raise ArgumentError(f"kernel must be a square matrix (n, n), got shape {tuple(kernel.shape)}")
    check.check_choice(backend, "backend", BACKENDS)
    check.check_choice(exhausted, "exhausted", ("fill", "stop"))
    n = kernel.shape[0]
    k = min(check.check_count(k, "k"), n)
    check.check_finite(kernel, "kernel")
    diagonal = kernel.diagonal()
    if bool((diagonal < 0).any()):
        (position,) = check.first_true(diagonal < 0)
        raise ArgumentError(
            f"kernel must have a diagonal >= 0, got {diagonal[position].item():g} at position {position}"
        )
    if k == 0:
        return torch.empty(0, dtype=torch.int64, device=kernel.device)
    dtype = accumulation_dtype(kernel.dtype)
    kernel, diagonal = kernel.detach().to(dtype), diagonal.detach().to(dtype)
    length, count = torch.tensor([n], device="cpu"), torch.tensor([k], device="cpu")
    with torch.autocast(kernel.device.type, enabled=False):
        picks = _greedy_on_kernel(kernel, diagonal, length, count, backend)
    if exhausted == "stop":
        return picks[picks >= 0]
    filled = fill_exhausted(picks[None], diagonal[None], length.to(kernel.device), count.to(kernel.device))
    return filled[0]


def _greedy_on_kernel(kernel: Tensor, diagonal: Tensor, length: Tensor, count: Tensor, backend: str) -> Tensor:
    """(k,) greedy picks, −1 once exhausted."""
    if backend == "reference":
        threshold = reference.EXHAUSTION_FACTOR * torch.finfo(kernel.dtype).eps
        chosen, _ = reference.greedy_map(kernel.double().cpu(), int(count), threshold)
        return torch.tensor(chosen + [-1] * (int(count) - len(chosen)), device=kernel.device)
    resolved = resolve_backend(backend, kernel.device)
    if resolved == "torch":
        return torch_backend.greedy_map(kernel[None], diagonal[None].contiguous(), int(count))[0]
    if resolved == "triton":
        ones, diagonal = torch.ones_like(diagonal[None]), diagonal[None].contiguous()
        return _triton_backend().greedy_map(kernel[None].contiguous(), ones, diagonal, length, count)[0]
    from framefusion.selection import numba_backend

    return numba_backend.greedy_map(kernel, diagonal, int(count))
