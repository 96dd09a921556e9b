"""VideoNeedle with photographs: videos and questions, deterministic from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from framefusion.evaluation.needle.dataset import NeedleVideo, check_numbers, needle_video
from framefusion.evaluation.needle.footage import Clip, bundled_clips
from framefusion.evaluation.needle.objects import Split
from framefusion.evaluation.needle.photo_questions import PHOTO_KINDS, sample_questions
from framefusion.evaluation.needle.photo_scenes import render_scene, sample_video
from framefusion.evaluation.needle.scenes import Footage

_PHOTOS = 70_001


def load_photos(
    folder: Path,
    frames: int = 16,
    videos: int = 60,
    seed: int = 0,
    *,
    questions: int = 14,
    kinds: Sequence[str] = PHOTO_KINDS,
    split: Split = "test",
    clips: Sequence[Clip] | None = None,
) -> list[NeedleVideo]:
    """Draw the set: three or four scenes of captioned photographs over real footage.

    Args:
        folder: the stamps of Tux Paint, ``…/tuxpaint/stamps``.
        frames: frames of each video, at least 8; the same seed shows the same scenes at any number.
        videos: how many videos; half of them over static footage, half over fast-cut footage.
        seed: of everything drawn.
        questions: questions about each video, kinds in turn.
        kinds: question kinds to draw from, of :data:`PHOTO_KINDS`.
        split: whose pictures, where a name has several.
        clips: footage; default the bundled clips of the test split.

    Returns:
        Videos with frames uint8 ``(T, 168, 168, 3)``.

    Raises:
        ArgumentError: a number is too small, a kind is unknown, or ``folder`` lacks a picture.
    """
    check_numbers(kinds, PHOTO_KINDS, frames=(frames, 8), videos=(videos, 1), questions=(questions, 1))
    clips = bundled_clips() if clips is None else clips
    result = []
    for index in range(videos):
        rng = np.random.default_rng([_PHOTOS, seed, index])
        footage: Footage = "fast" if index % 2 else "static"
        video = sample_video(rng, frames=frames, footage=footage, split=split)
        drawn = [render_scene(scene, n, clips, folder) for scene, n in zip(video.scenes, video.lengths, strict=True)]
        asked = sample_questions(rng, video, questions, kinds)
        result.append(needle_video(f"photos-{seed}-{frames}-{index}", video, asked, drawn))
    return result
