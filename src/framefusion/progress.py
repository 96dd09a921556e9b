"""Whom long work tells how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told what is under way."""

    def step(self, name: str, total: int | None = None) -> None:
        """A new step begins, of ``total`` parts if that is known."""

    def advance(self, parts: int) -> None:
        """So many parts of it are done."""


class Silent:
    """A :class:`Progress` that shows nothing."""

    def step(self, name: str, total: int | None = None) -> None:
        pass

    def advance(self, parts: int) -> None:
        pass
