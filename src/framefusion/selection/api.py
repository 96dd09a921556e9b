"""The public selection functions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

import torch
from torch import Tensor

from framefusion.errors import ArgumentError
from framefusion.selection import dispatch, ops
from framefusion.selection.numerics import accumulation_dtype
from framefusion.selection.plan import Budgets
from framefusion.selection.problem import Choices, make_problem

if TYPE_CHECKING:
    from typing_extensions import Unpack

logger = logging.getLogger(__name__)


class _Options(TypedDict, total=False):
    """:class:`~framefusion.selection.problem.Choices` as keywords."""

    backend: str
    exhausted: str
    check_finite: bool | None
    joint: bool
    novelty_lower_bound: float
    at_least: int
    gamma: float | None


@overload
def select_tokens(
    features: Tensor,
    relevance: Tensor | None = None,
    segments: Tensor | Sequence[int] | None = None,
    budgets: Budgets | Sequence[Any] | None = None,
    *,
    return_gains: Literal[False] = False,
    **options: Unpack[_Options],
) -> Tensor | list[Tensor]: ...


@overload
def select_tokens(
    features: Tensor,
    relevance: Tensor | None = None,
    segments: Tensor | Sequence[int] | None = None,
    budgets: Budgets | Sequence[Any] | None = None,
    *,
    return_gains: Literal[True],
    **options: Unpack[_Options],
) -> tuple[Tensor, Tensor] | tuple[list[Tensor], list[Tensor]]: ...


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
            8,192 tokens) or "auto": triton on CUDA where it is installed, torch elsewhere, and on the CPU numba from
            :func:`warm_up` on, or once it pays (:mod:`framefusion.selection.automatic`). With any but "reference",
            segments of more than 4,096 tokens use pivoted Gram–Schmidt.
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
    choices = Choices(backend, exhausted, check_finite, joint, novelty_lower_bound, at_least, gamma)
    run = ops.traced_select_tokens if torch.compiler.is_compiling() else dispatch.select_tokens
    kept, gains = run(features, relevance, segments, budgets, choices, return_gains)
    if features.dim() == 2:
        return (kept[0], gains[0]) if return_gains else kept[0]
    return (kept, gains) if return_gains else kept


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
        features: (N, D). All arguments are those of :func:`select_tokens`.
        relevance: (N,), or None.
        segments: (N,), segment ids.
        budgets: how many tokens each segment keeps.
        exhausted: what comes when nothing new is left in a segment.
        gamma: of the Gaussian kernel, None for the kernel of cosines.

    Returns:
        (K,) int64 on the features' device, tokens to keep. (N,) int64 on the CPU, the kept token of its segment with
        the largest cosine (itself for a kept one, ties to the lowest index), −1 where that keeps none or for tokens
        outside every segment. (N,) float32 on the CPU, that cosine, −Inf where there is none.

    Raises:
        TypeError, ValueError: as :func:`select_tokens`, and for a batch.
    """
    if isinstance(features, Tensor) and features.dim() != 2:
        raise ArgumentError(
            f"features must have shape (N, D), got {tuple(features.shape)}; select_tokens takes batches"
        )
    choices = Choices(exhausted=exhausted, gamma=gamma)
    problem = replace(make_problem(features, relevance, segments, budgets, choices), assigned=True)
    (picks,), (own,) = dispatch.select(problem, choices.backend), problem.samples
    nearest = torch.full((len(features),), -1, dtype=torch.int64, device="cpu")
    similarity = torch.full((len(features),), -torch.inf, dtype=torch.float32, device="cpu")
    for segment, p in zip(own, picks, strict=True):
        if p.nearest is not None and p.similarity is not None:
            nearest[segment.rows], similarity[segment.rows] = p.nearest, p.similarity
    nothing = torch.empty(0, dtype=torch.int64, device=features.device)
    return torch.cat([nothing, *[p.rows for p in picks]]), nearest, similarity


def warm_up(dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
    """Compile the Numba backend ahead of its first use, for whoever selects often: seconds, once on a machine.

    From then on ``backend="auto"`` is that backend on a CPU; without, see :mod:`framefusion.selection.automatic`.

    Args:
        dtype: of the features; half precision uses float32.
        device: where they will be; other devices than CPUs have nothing to compile here.
    """
    if torch.device(device).type != "cpu":
        return
    from framefusion.selection import numba_backend

    if not numba_backend.is_compiled(accumulation_dtype(dtype)):
        logger.info("compiling the selection, unless that was done before on this machine")
    numba_backend.warm_up(dtype)


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
    run = ops.greedy_map if torch.compiler.is_compiling() else dispatch.greedy_map
    return run(kernel, k, exhausted, backend)
