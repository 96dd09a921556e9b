"""Which tokens stay, wherever that is asked: the settings that a decoder and an engine before it have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from framefusion.checks import is_whole
from framefusion.errors import ArgumentError
from framefusion.reduction.budgets import BUDGETS
from framefusion.reduction.flat import with_flat_names
from framefusion.reduction.rules import name_of, resolve, rule_field
from framefusion.reduction.segmentation import SEGMENTATIONS, DynamicProgramming, Segmentation
from framefusion.reduction.selectors import SELECTORS
from framefusion.reduction.selectors.dpp import DPP, Kernel
from framefusion.reduction.sources import Relevance, relevance_of


def _segmentation(field: str, given: Any) -> str | Segmentation:
    return resolve(field, given, SEGMENTATIONS)


def _selector(field: str, given: Any) -> str | Kernel:
    return resolve(field, given, SELECTORS)


@with_flat_names
@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which tokens stay.

    A rule is its name, or where it can be told something, a dataclass, whose name alone stands for its defaults.

    Attributes:
        segmentation: how a video is cut: ``"dp"`` (default), ``"frame-similarity"``, ``"dyseg"``, ``"windows"``,
            ``"frames"`` (each its own) or ``"single"``; those with parameters are
            :class:`~framefusion.reduction.segmentation.DynamicProgramming`, ``FrameSimilarity``, ``DySeg`` and
            ``Windows``.
        budget_rule: with the selector ``"dpp"``, ``"joint"`` (its default; wherever the gain in log-determinant is
            largest, so that short scenes are not lost beside long ones), ``"uniform"`` (the same keep ratio in every
            segment; the default of other selectors) or ``"marginal-value"`` (MMG-Vid, arXiv 2508.21044). Each hits the
            total exactly, with a token for every segment if the total allows.
        relevance: what it goes by, ``"late-text"`` (default) or another source, see
            :class:`~framefusion.reduction.sources.Relevance`, which also says how much it weighs.
        selector: which rule picks the tokens of a segment: ``"dpp"`` (default), ``"dpp-once"`` (which fills up by
            relevance where the kept tokens span the rest), ``"topk"`` (relevance only),
            ``"uniform"`` (evenly spaced), another one of
            :data:`framefusion.reduction.selectors.SELECTORS`, or a registered one. Those with a kernel are
            :class:`~framefusion.reduction.selectors.dpp.DPP`, ``DPPOnce`` and ``HieraVid``.
        seed: of selectors that draw at random. Default 0.

    Raises:
        ValueError: a value is out of range, or two of them contradict each other.
    """

    segmentation: str | Segmentation = rule_field(DynamicProgramming(), _segmentation)
    budget_rule: str | None = None
    relevance: Relevance = rule_field(Relevance(), relevance_of)
    selector: str | Kernel = rule_field(DPP(), _selector)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.budget_rule is None:
            object.__setattr__(self, "budget_rule", self.usual_budget_rule)
        if self.budget_rule not in BUDGETS:
            raise ArgumentError(
                f"budget_rule must be one of {', '.join(map(repr, BUDGETS))}, got {self.budget_rule!r}."
            )
        if self.budget_rule == "joint" and not self.greedy:
            raise ArgumentError(
                f"budget_rule='joint' goes by the gains of selector='dpp'; selector={self.selector_name!r} has none. "
                "Use budget_rule='uniform' or 'marginal-value'."
            )
        if not is_whole(self.seed):
            raise ArgumentError(f"seed must be a whole number, got {self.seed!r}.")

    @property
    def selector_name(self) -> str:
        """The selector in :data:`framefusion.reduction.selectors.SELECTORS`."""
        return name_of(self.selector, SELECTORS)

    @property
    def usual_budget_rule(self) -> str:
        """The budget rule of the selector unless another one is given."""
        return "joint" if self.greedy else "uniform"

    @property
    def greedy(self) -> bool:
        """Whether the selector is a greedy whose gains can be compared between segments."""
        return isinstance(self.selector, DPP)

    @property
    def gaussian(self) -> bool:
        """Whether the rule is the DPP with the Gaussian kernel."""
        return isinstance(self.selector, DPP) and self.selector.gamma is not None
