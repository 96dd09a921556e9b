"""The clock by which a stream waits, and the word that ends it from another thread."""

from __future__ import annotations

import threading
import time


class Waiting:
    """Waits that :meth:`stop` cuts short. ``condition`` also guards what threads of one stream share."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether somebody said so."""
        return self._stopped

    def stop(self) -> None:
        """End every wait, now and later; from any thread."""
        with self.condition:
            self._stopped = True
            self.condition.notify_all()

    def now(self) -> float:
        """Seconds on a clock that never goes back."""
        return time.monotonic()

    def wait(self, seconds: float) -> None:
        """Let ``seconds`` go by, or less if the stream is stopped meanwhile."""
        with self.condition:
            self.condition.wait_for(lambda: self._stopped, seconds)
