"""Who uses the page: each visit has its own folder, file, answers and sessions, and all of it goes when it ends."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from framefusion.app.limits import Limits, VisitError

if TYPE_CHECKING:
    from framefusion.app.desk import Asked, Shown, Turn
    from framefusion.asking.sessions import Session


@dataclass
class Visit:
    """One open page.

    Attributes:
        folder: of its own, for the file that was uploaded.
        shown: the video or photograph that questions are about.
        questions: that were asked.
        asked: the last question that was asked afresh, as the settings of those that follow.
        talks: sessions for questions that follow, by whether they hold all tokens; made when the first one comes.
        turns: the questions that followed.
        used: when it was last used, on the clock of the visits.
        busy: how many of its calls are under way.
        ended: whether its folder is gone.
    """

    folder: Path
    shown: Shown | None = None
    questions: int = 0
    asked: Asked | None = None
    talks: dict[bool, Session] = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=list)
    used: float = 0.0
    busy: int = 0
    ended: bool = False


class Visits:
    """All visits, by a name that is each page's own.

    Args:
        limits: how many there may be, and how long one may be idle.
        clock: seconds that only grow.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits, self._clock = limits, clock
        self._root = tempfile.TemporaryDirectory(prefix="framefusion-app-")
        self._visits: dict[str, Visit] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._visits)

    @contextmanager
    def at(self, name: str) -> Iterator[Visit]:
        """The visit of a name for one call; a new one if there is none.

        Raises:
            VisitError: there are too many.
        """
        self.sweep()
        with self._lock:
            visit = self._visits.get(name)
            if visit is None:
                if len(self._visits) >= self.limits.visits:
                    raise VisitError(
                        f"{self.limits.visits} others use this page at the moment, which is its limit; try again later"
                    )
                folder = Path(tempfile.mkdtemp(dir=self._root.name))
                visit = self._visits[name] = Visit(folder, used=self._clock())
            visit.busy += 1
        try:
            yield visit
        finally:
            with self._lock:
                visit.busy -= 1
                visit.used = self._clock()

    def leave(self, name: str) -> None:
        """End a visit: its page was closed."""
        with self._lock:
            self._end(name)

    def sweep(self) -> None:
        """End the visits that nobody has used for long."""
        with self._lock:
            since = self._clock() - self.limits.idle
            for name in [name for name, visit in self._visits.items() if not visit.busy and visit.used < since]:
                self._end(name)

    def close(self) -> None:
        """End all visits and delete what there was of them."""
        with self._lock:
            for name in list(self._visits):
                self._end(name)
            self._root.cleanup()

    def _end(self, name: str) -> None:
        visit = self._visits.pop(name, None)
        if visit is not None:
            visit.ended = True
            if visit.shown is not None:
                visit.shown.forget()
            shutil.rmtree(visit.folder, ignore_errors=True)
