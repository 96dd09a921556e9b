"""What is asked of a backend: a frozen :class:`Problem`, made from checked arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor

from framefusion.errors import ArgumentError
from framefusion.selection import plan
from framefusion.selection import validation as check
from framefusion.selection.plan import Budgets, Picks, Segment, plan_segments


class Choices(NamedTuple):
    """How to select: the options of :func:`framefusion.select_tokens`, where each is described."""

    backend: str = "auto"
    exhausted: str = "fill"
    check_finite: bool | None = None
    joint: bool = False
    novelty_lower_bound: float = 0.0
    at_least: int = 0
    gamma: float | None = None


@dataclass(frozen=True)
class Problem:
    """A selection from a batch of samples. All that decides the result is here, but for the backend.

    Attributes:
        features: (B, N, D), any float dtype and device; not read outside the segments.
        relevance: (B, N) float64 on the features' device, or None for uniform relevance.
        samples: the segments of each sample, in the order of the result.
        exhausted: "fill", "stop" or "restart".
        check_finite: look at the norms on the host: raise for NaN and Inf, and rescale rows whose squares leave the
            range of the accumulation dtype. Without it such rows count as zero vectors.
        traced: whether :class:`~framefusion.selection.plan.Picks` have a trace.
        gamma: of the Gaussian kernel, None for that of cosines.
        total: tokens that all segments of a sample share; their counts are not read. None where each has its own.
        novelty_lower_bound, at_least: end a segment where nothing new is left, see :mod:`novelty`.
        assigned: whether picks say which kept token each token of the segment is most similar to.
        long_segment: segments of more tokens than this go without a Gram matrix.
        batched: whether errors name the sample.
    """

    features: Tensor
    relevance: Tensor | None
    samples: tuple[tuple[Segment, ...], ...]
    exhausted: str = "fill"
    check_finite: bool = True
    traced: bool = False
    gamma: float | None = None
    total: int | None = None
    novelty_lower_bound: float = 0.0
    at_least: int = 0
    assigned: bool = False
    long_segment: int = plan.LONG_SEGMENT
    batched: bool = False

    def of_sample(self, b: int) -> Problem:
        """The problem of one sample."""
        relevance = None if self.relevance is None else self.relevance[b : b + 1]
        return replace(self, features=self.features[b : b + 1], relevance=relevance, samples=self.samples[b : b + 1])

    def with_segments(self, segments: Sequence[Segment], **changes: Any) -> Problem:
        """The same for other segments of its only sample."""
        return replace(self, samples=(tuple(segments),), **changes)


Answer = list[list[Picks]]
"""What each segment of each sample keeps."""

Ask = Callable[[Problem], Answer]


def make_problem(
    features: Any, relevance: Any, segments: Any, budgets: Budgets | Sequence[Any] | None, choices: Choices
) -> Problem:
    """Check the arguments of :func:`framefusion.select_tokens` and plan the segments.

    Raises:
        TypeError, ValueError: as that.
    """
    features = check.check_features(features)
    check.check_choice(choices.exhausted, "exhausted", check.EXHAUSTED)
    check_finite = features.device.type == "cpu" if choices.check_finite is None else choices.check_finite
    shape, batched = features.shape[:-1], features.dim() == 3
    relevance = check.check_relevance(relevance, shape, check_finite)
    ids = check.check_segments(segments, shape)
    novelty_lower_bound = check.check_share(choices.novelty_lower_bound, "novelty_lower_bound")
    at_least = check.check_count(choices.at_least, "at_least")
    wanted = check.check_budgets(budgets, ids, batched)
    gamma = check.check_gamma(choices.gamma)
    if choices.exhausted == "restart" and (choices.joint or novelty_lower_bound > 0):
        raise ArgumentError("exhausted must be 'fill' or 'stop' with joint or novelty_lower_bound, got 'restart'")
    total = check.check_total(wanted) if choices.joint else None
    samples = tuple(tuple(plan_segments(row, *b, choices.joint)) for row, b in zip(ids, wanted, strict=True))
    if relevance is not None:
        relevance = relevance.detach().to(features.device).double()
        relevance = relevance if batched else relevance[None]
    return Problem(
        (features if batched else features[None]).detach(),
        relevance,
        samples,
        choices.exhausted,
        check_finite,
        gamma=gamma,
        total=total,
        novelty_lower_bound=novelty_lower_bound,
        at_least=at_least,
        long_segment=plan.LONG_SEGMENT,
        batched=batched,
    )
