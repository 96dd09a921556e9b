"""Prompts that every family is tested with, in its own frame size."""

from __future__ import annotations

from collections.abc import Callable

from tests.hf.case import Case, Image, Part

Rows = list[list[Part]]


def single(case: Case) -> Rows:
    """One video between two texts."""
    return [[3, (6, *case.frame), 5]]


def ragged(case: Case) -> Rows:
    """One video, two videos, none."""
    video = (6, *case.frame)
    return [[3, video, 5], [9, video, 2, video, 7], [12]]


def images(case: Case) -> Rows:
    """Images alone; images beside a video."""
    video, image = (6, *case.frame), Image(*case.frame)
    if "image" not in case.takes:
        return single(case)
    if not case.mixes:
        return [[3, image, 4, image, 2], [2, image, 5], [12]]
    return [[3, image, 4, image, 2], [2, image, 3, video, 1, image, 5]]


PROMPTS: dict[str, Callable[[Case], Rows]] = {"single": single, "ragged": ragged, "images": images}
