"""Room for the pictures of a video, all of one size: that of the first, or the one that they are resized to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from framefusion.asking.decoding.errors import VideoError

MAX_BYTES = 8 * 2**30
"""Largest decoded size (bytes) that a reader agrees to return."""

DRAWN_BYTES = 2**30
"""Of frames, up to which they keep their size where pictures may be drawn of them."""

Resize = Callable[[np.ndarray], np.ndarray]
"""From uint8 ``(H, W, 3)`` to another height and width."""

Fit = Callable[[int, int], Resize | None]
"""From the height and width of the first picture to what resizes all; None leaves them as they are."""


def is_large(count: int, height: int, width: int) -> bool:
    """Whether so many frames would take more than :data:`DRAWN_BYTES`."""
    return 3 * count * height * width > DRAWN_BYTES


class Pictures:
    """RGB pictures one behind the other.

    Args:
        count: how many there will be.
        fit: asked when the first one comes; None leaves them as they are.
    """

    def __init__(self, count: int, fit: Fit | None = None) -> None:
        self._count, self._fit, self._filled = count, fit, 0
        self._resize: Resize | None = None
        self._pixels: np.ndarray | None = None

    def add(self, shown: np.ndarray) -> None:
        """Keep a copy of the next one, uint8 ``(H, W, 3)``.

        Raises:
            VideoError: all of them would take more than :data:`MAX_BYTES`.
        """
        if self._pixels is None and self._fit is not None:
            self._resize = self._fit(*shown.shape[:2])
        own = shown if self._resize is None else self._resize(shown)
        if self._pixels is None:
            self._pixels = _room(self._count, own)
        self._pixels[self._filled] = own
        self._filled += 1

    def array(self) -> np.ndarray:
        """All of them: uint8 ``(count, H, W, 3)``."""
        assert self._pixels is not None
        assert self._filled == self._count
        return self._pixels


def _room(count: int, first: np.ndarray) -> np.ndarray:
    height, width, _ = first.shape
    size = count * first.nbytes
    if size > MAX_BYTES:
        raise VideoError(
            f"{count} frames of {width}×{height} pixels would take {size / 2**30:.0f} GiB; ask for fewer frames"
        )
    return np.empty((count, *first.shape), np.uint8)
