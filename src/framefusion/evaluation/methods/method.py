"""A method: settings for any budget, with what one has to know to compare it with others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from framefusion.checks import is_number, is_whole
from framefusion.errors import ArgumentError, FrameFusionError
from framefusion.reduction.schedule import default_layer, smallest_cost
from framefusion.reduction.settings import FrameFusion
from framefusion.reduction.sources import Relevance

Kind = Literal["control", "published", "ours", "ablation"]


class BudgetError(FrameFusionError, ValueError):
    """A budget that a method cannot reach, because it starts too deep or its smallest unit is too large.

    Attributes:
        smallest: share of the token-layers that the method needs at least.
    """

    def __init__(self, budget: float, smallest: float, reason: str) -> None:
        super().__init__(
            f"a budget of {budget:g} cannot be reached: {reason}. Ask for more than {smallest:.4f}, or take a method "
            "that reduces before layer 0."
        )
        self.smallest = smallest


@dataclass(frozen=True)
class Method:
    """A way to reduce the visual tokens of a video, on the same footing as every other one.

    The budget is the *layer-averaged* share: visual tokens summed over the decoder layers, divided by those without
    reduction. So a method that starts at a deeper layer has to keep less there.

    Attributes:
        name: in :data:`framefusion.evaluation.methods.METHODS`; an ablation's is its base's, a colon and what it
            changes.
        title: for tables.
        kind: ``"control"``, ``"published"``, ``"ours"`` or ``"ablation"``.
        citation: the paper, or an empty string.
        description: one sentence: what stays, and where it is chosen.
        build: the settings for a valid budget and a number of decoder layers; see :meth:`settings`.
        random: whether it draws at random, so that several ``FrameFusion.seed`` belong in a comparison.
        budgeted: whether the budget changes anything; False for all tokens and for no picture.
        blank: whether the model is to be given blank frames.
        frames: for a method that gives the model fewer frames and all of their tokens: how many, of the budget and
            the frames that there are.
        rule: the settings that say which tokens stay, without where and how many, so that the rule can be put into
            another one's stages; None for what is no rule of one stage.
        scenes: whether the model is given the middle frame of every scene and all of its tokens; only data sets that
            know the scenes of their videos can be asked so.
    """

    name: str
    title: str
    kind: Kind
    citation: str
    description: str
    build: Callable[[float, int], FrameFusion]
    random: bool = False
    budgeted: bool = True
    blank: bool = False
    frames: Callable[[float, int], int] | None = None
    rule: Mapping[str, Any] | None = None
    scenes: bool = False

    def settings(self, budget: float, layers: int) -> FrameFusion:
        """The settings that spend the budget.

        Args:
            budget: layer-averaged share of the visual tokens, in (0, 1].
            layers: decoder layers of the model.

        Raises:
            BudgetError: the method cannot reach the budget, with the smallest that it can.
            ValueError: the budget or the number of layers is out of range.
        """
        check_budget(budget)
        if not is_whole(layers) or layers < 1:
            raise ArgumentError(f"layers must be a whole number, at least 1, got {layers!r}.")
        return self.build(float(budget), int(layers))


def check_budget(budget: float) -> None:
    """Refuse a budget that is no share in (0, 1].

    Raises:
        ValueError: it is not.
    """
    if not is_number(budget) or not 0 < float(budget) <= 1:
        raise ArgumentError(f"budget must be a share of the token-layers in (0, 1], got {budget!r}.")


PLAIN: Mapping[str, Any] = {
    "merging": None,
    "segmentation": "single",
    "budget_rule": "uniform",
    "relevance": Relevance("none", sign=1, exponent=1.0),
    "dropped": "drop",
}
"""Settings of a rule that says everything itself, spelt out so that it stays what it is when a default changes."""


COSINES: Mapping[str, Any] = {"gamma": None, "later_frames": 1.0}
"""Of the kernels of published rules: that of cosines, and all frames alike."""


def one_stage(budget: float, layers: int, layer: int) -> dict[int, float]:
    """``keep`` with one stage that spends the budget: ``(b·L - l) / (L - l)`` from layer ``l`` on.

    Raises:
        BudgetError: the layers before it spend all of the budget.
    """
    share = (budget * layers - layer) / (layers - layer)
    if share <= 0:
        first = "the first layer" if layer == 1 else f"the first {layer} layers"
        raise BudgetError(budget, layer / layers, f"{first} of {layers} run on every token")
    return {layer: min(share, 1.0)}


def at_input(selector: str) -> Callable[[float, int], FrameFusion]:
    """``build`` of a rule that chooses from the whole video before layer 0, where there is no attention.

    Args:
        selector: the rule's name in ``framefusion.reduction.selectors``.
    """

    def build(budget: float, layers: int) -> FrameFusion:
        return FrameFusion(keep=one_stage(budget, layers, 0), **{**PLAIN, "selector": selector})

    return build


def behind_attention(budget: float, layers: int) -> dict[int, float]:
    """:func:`one_stage` at the library's default layer, ``max(1, round(L / 14))``: FastV's layer 2 of 28.

    Raises:
        BudgetError: the layers before it spend all of the budget, or there are none.
    """
    layer = default_layer(layers)
    if not layer:
        raise BudgetError(budget, 1.0, "a single layer has no attention before it")
    return one_stage(budget, layers, layer)


def cascade_cost(budget: float, layers: int) -> float:
    """``cost`` that spends the budget.

    Raises:
        BudgetError: layer 0 alone, where nothing may be similar, spends all of it.
    """
    smallest = smallest_cost(1 << 62, layers)
    if budget <= smallest:
        raise BudgetError(budget, smallest, f"the first layer of {layers} may have to run on every token")
    return budget
