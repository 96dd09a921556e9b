"""Progress of long work: a bar with the time that is left."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _Rate(ProgressColumn):
    """Parts a second, once that is known."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g}/s", style="progress.data.speed")


class Bars:
    """One step after the other; a :class:`framefusion.progress.Progress`.

    Args:
        rate: show parts a second, too.
    """

    def __init__(self, rate: bool = False) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            *([_Rate()] if rate else []),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),
            # Batches come seldom with a large model; the estimate looks back far enough to see several.
            speed_estimate_period=120,
        )
        self._task = self._progress.add_task("Starting", total=None)

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, name: str, total: int | None = None) -> None:
        """Begin a step, in the place of the last one."""
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(name, total=total)

    def advance(self, parts: int) -> None:
        """So many parts of the step are done."""
        self._progress.advance(self._task, parts)
