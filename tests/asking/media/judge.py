"""Whether frames that a reader took from a file are those that a viewer would see there."""

from __future__ import annotations

import numpy as np

from tests.asking.media.corpus import Shown

SECONDS = 0.011
"""How far a time may be from that of ``ffmpeg``: clocks of containers are as coarse as a hundredth of a second."""


_COARSE = 0.003
"""Seconds: what ``ffmpeg`` takes for the length of the last frame may be that far from its neighbours'."""


def _on_display(shown: Shown, count: int, shift: float) -> list[int]:
    """Positions of the frames on display ``shift`` seconds from the middle of ``count`` equal intervals; every frame if
    there are fewer."""
    if count >= len(shown.times):
        return list(range(len(shown.times)))
    middles = (np.arange(count) + 0.5) * shown.duration / count
    return (np.searchsorted(shown.times, middles + shift, side="right") - 1).tolist()


def _acceptable(shown: Shown, count: int) -> list[set[int]]:
    """The right positions for each interval: both frames where its middle falls on the change between them."""
    early, late = (_on_display(shown, count, shift) for shift in (-_COARSE, _COARSE))
    return [{one, other} for one, other in zip(early, late, strict=True)]


def faults(shown: Shown, count: int, frames: np.ndarray, times: np.ndarray, tolerance: float) -> set[str]:
    """What is wrong with the frames that a reader gave when it was asked for ``count``.

    Returns:
        None or several of ``"count"``, ``"frames"``, ``"orientation"``, ``"colours"``, ``"size"`` and ``"times"``.
    """
    wanted = _acceptable(shown, count)
    if len(frames) != len(wanted):
        return {"count"}
    found = set()
    for positions, frame, time in zip(wanted, frames, np.asarray(times) - np.asarray(times)[0], strict=True):
        verdicts = {position: _fault(shown, position, frame, tolerance) for position in positions}
        right = [position for position, verdict in verdicts.items() if not verdict] or list(positions)
        first = min(wanted[0])
        if all(abs(time - shown.times[position] + shown.times[first]) > SECONDS for position in right):
            found.add("times")
        found.add(min(verdicts.values()))
    return found - {""}


def _fault(shown: Shown, position: int, frame: np.ndarray, tolerance: float) -> str:
    if _alike(frame, shown.pictures[position], tolerance):
        return ""
    if any(_alike(frame, other, tolerance) for other in shown.pictures):
        return "frames"
    if any(_alike(turned, shown.pictures[position], tolerance) for turned in _orientations(frame)):
        return "orientation"
    return "colours" if frame.shape == shown.pictures[position].shape else "size"


def _alike(one: np.ndarray, other: np.ndarray, tolerance: float) -> bool:
    return one.shape == other.shape and float(np.abs(one.astype(int) - other).mean()) <= tolerance


def _orientations(frame: np.ndarray) -> list[np.ndarray]:
    turned = [np.rot90(frame, quarter) for quarter in range(4)]
    return turned + [np.flip(picture, 1) for picture in turned]
