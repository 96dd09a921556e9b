"""Lower confidence bounds of a relative accuracy, valid for every number of samples. Pure numbers.

Asymptotic intervals (bootstrap, t) do not do here: where no answer has changed yet their width is zero, and they would
promise 98 % after two videos.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from framefusion.errors import ArgumentError

STAKES = np.array([1, 0.8, 0.55, 0.3, 0.15, 0.06])
"""Shares of the capital that are bet. The more often answers change, both ways, the better are small ones."""
WEIGHTS = np.array([0.4, 0.15, 0.15, 0.1, 0.1, 0.1])
"""Of the stakes in the mixture. The first bets everything, so that few units suffice where no answer changes."""

STEPS = 40
"""Of a bisection."""
MOST = 1024
"""Samples so many times as large as the present one are not imagined."""


@dataclass(frozen=True)
class Sample:
    """What was right, with the reduction and without, per independent unit.

    Attributes:
        kept: ``(n,)`` float64 in [0, 1]: share of a unit's questions that the reduced video answers right.
        reference: ``(n,)`` float64 in [0, 1]: the same of all tokens; ones where agreement with them is asked.
        binary: whether a unit is a single yes or no, without labels, so that the binomial distribution is exact.
    """

    kept: np.ndarray
    reference: np.ndarray
    binary: bool

    @classmethod
    def of(
        cls, kept: Sequence[float], reference: Sequence[float], units: Sequence[Hashable], *, labelled: bool
    ) -> Sample:
        """From single questions.

        Args:
            kept: ``Q`` values in [0, 1]: whether a question is answered right with the reduction.
            reference: ``Q`` values: the same with all tokens; ones without labels.
            units: ``Q`` ids; questions of one unit may depend on each other.
            labelled: whether any question has a label.

        Raises:
            ValueError: no questions, or sequences of different lengths.
        """
        if not len(units) or not len(kept) == len(reference) == len(units):
            raise ArgumentError(
                f"kept, reference and units must have one value for each question, at least one; got {len(kept)}, "
                f"{len(reference)} and {len(units)}."
            )
        number = {unit: i for i, unit in enumerate(dict.fromkeys(units))}
        where = np.array([number[unit] for unit in units])
        counts = np.bincount(where)
        means = [np.bincount(where, np.asarray(values, dtype=np.float64)) / counts for values in (kept, reference)]
        return cls(means[0], means[1], binary=not labelled and len(number) == len(units))

    @classmethod
    def perfect(cls, units: int, *, binary: bool) -> Sample:
        """Units that are all right, with the reduction and without."""
        return cls(np.ones(units), np.ones(units), binary)

    @property
    def estimate(self) -> float:
        """Accuracy relative to all tokens, every unit counting alike.

        Raises:
            ValueError: all tokens are never right.
        """
        below = float(self.reference.sum())
        if not below:
            raise ArgumentError("reference is 0 everywhere: what is never right has no relative accuracy.")
        return float(self.kept.sum()) / below

    def p_value(self, floor: float, times: float = 1.0) -> float:
        """How likely a sample at least this good is, if the relative accuracy is ``floor`` or less.

        For binary units the exact binomial tail (Clopper & Pearson 1934). Else one over the capital of a gambler who
        bets that units are better than the floor, in a fair game if they are not: with stake ``s``, unit ``i``
        multiplies it by ``1 + s (kept_i / floor - reference_i)``, which is never negative and at most 1 on average
        (betting, Waudby-Smith & Ramdas, arXiv 2010.09686; Markov's inequality). The capital is split
        over :data:`STAKES`, so that no order of the units is preferred.

        Args:
            floor: above 0.
            times: as if each unit had been seen so many times.

        Returns:
            In [0, 1]; not decreasing in ``floor``.
        """
        if self.binary:
            n = round(len(self.kept) * times)
            return _binomial_tail(min(n, math.floor(float(self.kept.sum()) * times + 1e-9)), n, floor)
        gains = np.outer(STAKES, self.kept / floor - self.reference)
        with np.errstate(divide="ignore"):
            capital = np.log(WEIGHTS) + times * np.log(np.maximum(1 + gains, 0)).sum(1)
        return float(np.exp(-max(0.0, _log_sum(capital))))

    def lower(self, confidence: float) -> float:
        """The largest floor that the sample proves: a one-sided lower confidence bound of the relative accuracy."""
        low, high = 0.0, self.estimate
        for _ in range(STEPS if high else 0):
            middle = (low + high) / 2
            low, high = (middle, high) if self.p_value(middle) <= 1 - confidence else (low, middle)
        return low

    def needed(self, floor: float, confidence: float) -> int | None:
        """About how many units like these prove the floor; None if that is more than :data:`MOST` times as many."""
        if self.estimate <= floor or self.p_value(floor, MOST) > 1 - confidence:
            return None
        low, high = 0.0, float(MOST)
        for _ in range(STEPS):
            middle = (low + high) / 2
            low, high = (low, middle) if self.p_value(floor, middle) <= 1 - confidence else (middle, high)
        return math.ceil(high * len(self.kept) - 1e-6)


def smallest_sample(floor: float, confidence: float, *, binary: bool) -> int:
    """How many units prove a floor if every one is right.

    Args:
        floor, confidence: in (0, 1).
        binary: as of :class:`Sample`.
    """
    one = Sample.perfect(1, binary=binary)
    high = 1
    while one.p_value(floor, high) > 1 - confidence:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if one.p_value(floor, middle) > 1 - confidence else (low, middle)
    return high


def _binomial_tail(successes: int, n: int, p: float) -> float:
    """``P(X >= successes)`` of ``n`` trials with probability ``p``."""
    if successes <= 0 or p >= 1:
        return 1.0
    failures = np.arange(1, n - successes + 1)
    choose = np.concatenate([[0.0], np.cumsum(np.log((n + 1 - failures) / failures))])
    j = np.arange(len(choose))
    return min(1.0, math.exp(_log_sum(choose + (n - j) * math.log(p) + j * math.log1p(-p))))


def _log_sum(terms: np.ndarray) -> float:
    """``log Σ exp(terms)``."""
    largest = float(terms.max())
    return largest if math.isinf(largest) else largest + math.log(float(np.exp(terms - largest).sum()))
