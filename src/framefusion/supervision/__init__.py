"""Jobs for several processes, and what happens when one of them dies.

``schedule`` decides who does what and knows no process; :class:`~framefusion.supervision.processes.Processes` are those
of this machine, and ``framefusion.batch.on_ray`` has those of a cluster. Nothing here imports torch.
"""

from framefusion.supervision.processes import Processes, Worker
from framefusion.supervision.schedule import (
    AHEAD,
    DEATHS,
    Answered,
    Confirm,
    Died,
    News,
    Pool,
    Progressed,
    Ready,
    Refused,
    WorkerError,
    results,
)

__all__ = [
    "AHEAD",
    "DEATHS",
    "Answered",
    "Confirm",
    "Died",
    "News",
    "Pool",
    "Processes",
    "Progressed",
    "Ready",
    "Refused",
    "Worker",
    "WorkerError",
    "results",
]
