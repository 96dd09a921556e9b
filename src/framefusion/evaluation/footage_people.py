"""Who is to be seen in film from a camera that stands still: the truth for :mod:`framefusion.evaluation.footage`.

No detector network: the median of frames over the whole film is the empty scene, and what differs from it in one piece
of a standing person's shape is a person. Limits: two people side by side, or one behind the other, are one piece and
count as one, or as none where the piece is too wide; someone who stands still for half of the film is part of the
scene; a person behind a pole may be two pieces, which count if they still have the shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from framefusion.errors import ArgumentError, MissingDependencyError

DIFFERENCE = 22.0
"""Smallest difference to the empty scene, of the colour channel that differs most, in levels of 255."""
BLUR = 1.5
"""Standard deviation in pixels of the Gaussian that takes the noise of the compression out of the difference."""
CLOSED = 3
"""Pixels by which pieces grow and shrink again, so that a belt does not cut a person in two."""
HEIGHTS, WIDTHS = (40 / 576, 150 / 576), (12 / 576, 80 / 576)
"""What is as high and wide as a person, in heights of the picture."""
UPRIGHT = 1.2
"""A person is at least so many times as high as wide."""
FILLED = 0.35
"""Smallest share of its box that a person fills: tape that flutters fills less."""


@dataclass(frozen=True)
class Person:
    """One person in one frame.

    Attributes:
        frame: index of the frame.
        box: top, left, bottom and right in pixels, the last two exclusive.
        mask: bool, of the shape of the box.
    """

    frame: int
    box: tuple[int, int, int, int]
    mask: np.ndarray


def empty_scene(frames: np.ndarray) -> np.ndarray:
    """The median of ``(T, H, W, 3)`` uint8 frames that are spread over the film: ``(H, W, 3)`` float32."""
    return np.median(frames, axis=0).astype(np.float32)


def people(frames: np.ndarray, scene: np.ndarray) -> list[Person]:
    """The people of some frames.

    Args:
        frames: ``(T, H, W, 3)`` uint8.
        scene: ``(H, W, 3)`` float32 from :func:`empty_scene`.

    Returns:
        By frame, and in a frame from top to bottom.

    Raises:
        MissingDependencyError: scipy is not installed.
    """
    ndimage = _ndimage()
    found = []
    for index, frame in enumerate(frames):
        difference = np.abs(frame.astype(np.float32) - scene).max(axis=-1)
        differs = ndimage.gaussian_filter(difference, BLUR) > DIFFERENCE
        pieces, _ = ndimage.label(ndimage.binary_closing(differs, iterations=CLOSED))
        for number, (rows, columns) in enumerate(ndimage.find_objects(pieces), start=1):
            mask = pieces[rows, columns] == number
            if like_a_person(mask, frame.shape[0]):
                found.append(Person(index, (rows.start, columns.start, rows.stop, columns.stop), mask))
    return found


def like_a_person(mask: np.ndarray, height: int) -> bool:
    """Whether a piece has the shape of a person who stands or walks.

    Args:
        mask: bool, the piece in its box.
        height: of the picture, pixels.
    """
    high, wide = mask.shape
    fits = HEIGHTS[0] <= high / height <= HEIGHTS[1] and WIDTHS[0] <= wide / height <= WIDTHS[1]
    return bool(fits and high >= UPRIGHT * wide and mask.mean() >= FILLED)


def patches_of(person: Person, size: tuple[int, int], grid: tuple[int, int]) -> list[int]:
    """The patches that show a person: those with at least half as many of its pixels as the patch with most.

    Args:
        person: as found in a frame.
        size: height and width of the frame in pixels.
        grid: rows and columns of patches over the whole frame.

    Returns:
        ``row * columns + column`` of each, ascending; never empty.

    Raises:
        ArgumentError: the person has no pixels.
    """
    rows, columns = np.nonzero(person.mask)
    if not len(rows):
        raise ArgumentError("person.mask is empty; a person has at least one pixel.")
    row = (rows + person.box[0]) * grid[0] // size[0]
    column = (columns + person.box[1]) * grid[1] // size[1]
    pixels = np.bincount(row * grid[1] + column, minlength=grid[0] * grid[1])
    return np.flatnonzero(pixels * 2 >= pixels.max()).tolist()


def _ndimage() -> Any:
    try:
        from scipy import ndimage
    except ImportError as error:
        raise MissingDependencyError("finding people needs scipy: pip install 'framefusion[parts]'.") from error
    return ndimage
