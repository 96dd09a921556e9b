"""Which visual tokens to keep: greedy MAP of a determinantal point process, segment by segment.

Pure tensors: nothing here knows a model or the rest of the package. :func:`select_tokens` is the public
entry; :func:`select_and_assign` also says which kept token each dropped one is most similar to,
:func:`select_in_segments` takes one sample whose segments are planned already, and :func:`greedy_map` a ready kernel
matrix.
"""

from framefusion.selection.api import (
    BACKENDS,
    LONG_SEGMENT,
    greedy_map,
    select_and_assign,
    select_in_segments,
    select_tokens,
    warm_up,
)
from framefusion.selection.plan import Budgets, Segment, make_segment, split_total

__all__ = [
    "BACKENDS",
    "LONG_SEGMENT",
    "Budgets",
    "Segment",
    "greedy_map",
    "make_segment",
    "select_and_assign",
    "select_in_segments",
    "select_tokens",
    "split_total",
    "warm_up",
]
