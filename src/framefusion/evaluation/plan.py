"""What an evaluation compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from framefusion.evaluation.answering import Generating
from framefusion.evaluation.cells import MethodError
from framefusion.evaluation.methods import Method

BUDGETS = (0.5, 0.3, 0.2, 0.1, 0.05)
"""Layer-averaged shares of visual tokens that are compared unless said otherwise."""
SEED = 0
"""Of the bootstrap."""
METHODS = ("controls", "published", "ours")
"""Methods that are compared unless said otherwise."""


@dataclass(frozen=True)
class Plan:
    """What to compare.

    Attributes:
        frames: frames of the videos.
        methods: names or groups of methods, see :func:`framefusion.evaluation.cells.choose`; all tokens always
            come along.
        budgets: mean shares of visual tokens over the decoder layers, each in (0, 1].
        seeds: how many seeds a random method gets.
        jobs: processes.
        timed: questions on which the time to the first token is measured in each cell; 0 for none.
        generating: how answers are generated.
        unnamed: further methods, which have no name in a registry.

    Raises:
        MethodError: a number is out of range.
    """

    frames: int = 16
    methods: Sequence[str] = METHODS
    budgets: Sequence[float] = BUDGETS
    seeds: int = 3
    jobs: int = 1
    timed: int = 5
    generating: Generating = field(default_factory=Generating)
    unnamed: Sequence[Method] = ()

    def __post_init__(self) -> None:
        for budget in self.budgets:
            if not 0 < budget <= 1:
                raise MethodError(f"a budget must be in (0, 1], got {budget:g}")
        if not self.budgets or not self.methods:
            raise MethodError(f"there are no {'methods' if self.budgets else 'budgets'} to compare; name at least one")
        least = {"frames": 1, "seeds": 1, "jobs": 1, "timed": 0}
        numbers = [(name, getattr(self, name), low) for name, low in least.items()]
        numbers += [("batch", self.generating.batch, 1), ("new_tokens", self.generating.new_tokens, 1)]
        for name, value, low in numbers:
            if value < low:
                raise MethodError(f"{name} must be at least {low}, got {value}")
