"""PyramidDrop: the tokens that the last text token attends to most, at every stage of a pyramid."""

from __future__ import annotations

from torch import Tensor

from framefusion.reduction.selectors import topk, uniform
from framefusion.reduction.selectors.candidates import Candidates


def select(candidates: Candidates) -> Tensor:
    """The most relevant tokens of each segment, ties to the lower index (PyramidDrop, arXiv 2410.17247).

    Relevance is the attention of the last text token in the paper, whose first quarter of the layers runs on all
    tokens. A budget that this does not allow needs a stage before layer 0, where nothing has been attended to yet:
    evenly spaced tokens stay there, as if the video had fewer.
    """
    return uniform.select(candidates) if candidates.relevance is None else topk.select(candidates)
