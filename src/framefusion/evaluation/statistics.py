"""Accuracies with bootstrap intervals, paired by question and clustered by video. Pure numbers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from framefusion.errors import ArgumentError

RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number and its interval; ``low`` and ``high`` are None where there is no telling."""

    value: float
    low: float | None
    high: float | None


class Bootstrap:
    """The percentile bootstrap over whole videos (Efron 1979; clustered as in Cameron, Gelbach & Miller 2008).

    Questions about one video stand and fall together, so that a resample draws as many *videos* as there are, with
    replacement, each with all its questions. One object draws once: everything that it estimates sees the same
    resamples, and two methods are compared on the same questions in each of them (*paired*). What varies between
    videos is thereby taken out of the difference.

    Args:
        videos: ``Q`` ids, the video of each question.
        resamples: how many. Default 10,000.
        seed: of the draw. Default 0.
        level: coverage of the intervals. Default 0.95.

    Raises:
        ValueError: no questions, or a number out of range.
    """

    def __init__(
        self, videos: Sequence[Hashable], *, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
    ) -> None:
        if not len(videos):
            raise ArgumentError("videos is empty; there is nothing to estimate.")
        if resamples < 1 or not 0 < level < 1:
            raise ArgumentError(f"resamples must be at least 1 and level in (0, 1), got {resamples} and {level}.")
        number = {video: i for i, video in enumerate(dict.fromkeys(videos))}
        self._cluster = np.array([number[video] for video in videos])
        self._clusters = len(number)
        draw = np.random.default_rng(seed).multinomial
        drawn = draw(self._clusters, np.full(self._clusters, 1 / self._clusters), size=resamples)
        self.weights: np.ndarray = drawn.astype(np.float64)
        """``(resamples, videos)`` float64: how often each video, by first appearance, is in each resample."""
        self._tails = (1 - level) / 2, (1 + level) / 2

    def accuracy(self, correct: np.ndarray, where: np.ndarray | None = None) -> Estimate:
        """The mean of ``correct``.

        Args:
            correct: ``(Q,)`` float in [0, 1]: the share of runs of a question that were right.
            where: ``(Q,)`` bool: questions to look at. Default all.
        """
        right, asked = self._sums(correct, where), self._sums(np.ones(len(self._cluster)), where)
        return self._estimate(right, asked)

    def difference(self, correct: np.ndarray, reference: np.ndarray, where: np.ndarray | None = None) -> Estimate:
        """``accuracy(correct) - accuracy(reference)``, paired; arguments as of :meth:`accuracy`."""
        gained = self._sums(np.asarray(correct, float) - np.asarray(reference, float), where)
        return self._estimate(gained, self._sums(np.ones(len(self._cluster)), where))

    def ratio(self, correct: np.ndarray, reference: np.ndarray, where: np.ndarray | None = None) -> Estimate | None:
        """``accuracy(correct) / accuracy(reference)``, paired; None if the reference is never right."""
        below = self._sums(reference, where)
        return self._estimate(self._sums(correct, where), below) if below.sum() else None

    def _sums(self, values: np.ndarray, where: np.ndarray | None) -> np.ndarray:
        """Per video, the sum over its questions."""
        values = np.asarray(values, dtype=np.float64)
        if values.shape != self._cluster.shape:
            raise ArgumentError(
                f"values must have shape {self._cluster.shape}, one for each question, got {values.shape}."
            )
        return np.bincount(self._cluster, values if where is None else values * where, minlength=self._clusters)

    def _estimate(self, above: np.ndarray, below: np.ndarray) -> Estimate:
        total = below.sum()
        if not total:
            raise ArgumentError("where selects no question.")
        value = float(above.sum() / total)
        if np.count_nonzero(below) < 2:
            # One video says nothing about others.
            return Estimate(value, None, None)
        divisors = self.weights @ below
        drawn = (self.weights @ above)[divisors > 0] / divisors[divisors > 0]
        low, high = np.quantile(drawn, self._tails)
        return Estimate(value, float(low), float(high))
