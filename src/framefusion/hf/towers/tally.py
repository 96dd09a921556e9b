"""How much of its work on videos the vision tower of an attached model did."""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple


class Encoded(NamedTuple):
    """What a tower did in one call."""

    units: int
    """Of all videos, once for each block of the tower."""
    encoded: int
    """That ran, over all blocks."""


class Tally:
    """What the tower of one attached model did, in the latest call of the calling thread or, where it made none, of
    any."""

    def __init__(self) -> None:
        self._own: ContextVar[Encoded | None] = ContextVar("framefusion_encoded", default=None)
        self._latest: Encoded | None = None
        self.total = Encoded(0, 0)

    def note(self, encoded: Encoded) -> None:
        """A call is over."""
        self._latest = encoded
        self.total = Encoded(self.total.units + encoded.units, self.total.encoded + encoded.encoded)
        self._own.set(encoded)

    @property
    def share(self) -> float | None:
        """Share of its work on videos that it did; None before any call."""
        latest = self._own.get() or self._latest
        return None if latest is None else latest.encoded / latest.units
