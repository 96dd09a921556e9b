"""The name under which FrameFusion's users attach it."""

from __future__ import annotations

from torch import nn

from framefusion.hf import Run, attach
from framefusion.reduction.merging import Merging
from framefusion.reduction.settings import FrameFusion


def apply_framefusion(
    model: nn.Module,
    cost: float = 0.3,
    similarity_lower_bound: float = 0.6,
    ratio_lower_bound: float = 0.1,
) -> Run:
    """Attach FrameFusion's cascade to a model, as ``framefusion.interface.apply_framefusion`` of that project does.

    Args:
        model: a video LLM of a supported family.
        cost: mean share of the visual tokens over the decoder layers, in (0, 1].
        similarity_lower_bound: cosine similarity from which tokens of consecutive frames merge.
        ratio_lower_bound: merging ends once a layer merges a smaller share than this.

    Returns:
        The handle; it may be ignored, as the original returns nothing to keep, or used to detach.

    Raises:
        ValueError: see :func:`framefusion.attach`.
    """
    settings = FrameFusion(
        cost=cost,
        merging=Merging(similarity_lower_bound, ratio_lower_bound),
        relevance="last",
        dropped="drop",
    )
    return attach(model, settings)
