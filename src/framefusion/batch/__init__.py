"""Many questions about many videos: ``framefusion batch``.

Arrows inside: ``run`` → ``local``, ``on_ray``, ``store`` → ``answering`` → ``rows``. Nothing but ``plan`` knows a model
or imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from framefusion.batch.answering import Answerer
from framefusion.batch.local import Local
from framefusion.batch.on_ray import RayEngine
from framefusion.batch.rows import BatchError, RowError
from framefusion.batch.run import Engine, Summary, run

if TYPE_CHECKING:
    from framefusion.batch.plan import Plan

__all__ = ["Answerer", "BatchError", "Engine", "Local", "Plan", "RayEngine", "RowError", "Summary", "run"]


def __getattr__(name: str) -> Any:
    # Whoever only hands out rows needs no torch.
    if name != "Plan":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from framefusion.batch.plan import Plan

    return Plan
