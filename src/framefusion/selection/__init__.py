"""Which visual tokens to keep: greedy MAP of a determinantal point process, segment by segment.

Pure tensors: nothing here knows a model or the rest of the package. :func:`select_tokens` is the public
entry; :func:`select_and_assign` also says which kept token each dropped one is most similar to, and :func:`greedy_map`
takes a ready kernel matrix.
"""

from framefusion.selection.api import greedy_map, select_and_assign, select_tokens, warm_up
from framefusion.selection.backends import BACKENDS
from framefusion.selection.plan import LONG_SEGMENT, Budgets, Segment, make_segment, split_total

__all__ = [
    "BACKENDS",
    "LONG_SEGMENT",
    "Budgets",
    "Segment",
    "greedy_map",
    "make_segment",
    "select_and_assign",
    "select_tokens",
    "split_total",
    "warm_up",
]
