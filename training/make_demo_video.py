"""Make the demo video ``scenes.mp4`` and its list of questions: ``python training/make_demo_video.py``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from video_files import write_mp4

from framefusion.evaluation.needle import ASKED_KINDS
from framefusion.evaluation.needle.footage import bundled_clips
from framefusion.evaluation.needle.questions import QUESTION_KINDS, possible, sample_questions
from framefusion.evaluation.needle.scenes import Video, render_scene, sample_video

VIDEOS = Path(__file__).resolve().parent.parent / "src" / "framefusion" / "assets" / "videos"
SIZE, FRAMES, REPEAT, FPS = 256, 16, 9, 18
"""Sixteen frames of half a second, each drawn nine times."""
SEED = 12


def demo_video(seed: int = SEED) -> Video:
    """Four scenes of the test split with something to ask of every kind."""
    rng = np.random.default_rng([seed, 3])
    while True:
        video = sample_video(rng, frames=FRAMES, footage="static", split="test", scenes=4)
        if video.lengths == (4, 4, 4, 4) and all(possible(video)[kind] for kind in QUESTION_KINDS):
            return video


def demo_frames(video: Video) -> np.ndarray:
    """The film, uint8 ``(144, 256, 256, 3)``."""
    scenes = zip(video.scenes, video.lengths, strict=True)
    return np.concatenate([render_scene(s, n, bundled_clips(), size=SIZE, repeat=REPEAT).frames for s, n in scenes])


def demo_questions(video: Video, seed: int = SEED) -> list[dict[str, str]]:
    """Up to three questions of each kind, no text twice."""
    rng = np.random.default_rng([seed, 4])
    found = {q.text: q for q in sample_questions(rng, video, 6 * len(QUESTION_KINDS))}
    pairs = []
    for kind in ASKED_KINDS:
        pairs += [q for q in found.values() if q.kind == kind][:3]
    return [{"question": q.text, "answer": q.answer, "kind": q.kind} for q in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, default=VIDEOS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    video = demo_video(args.seed)
    write_mp4(args.out / "scenes.mp4", demo_frames(video), FPS, crf=22)
    pairs = demo_questions(video, args.seed)
    (args.out / "scenes.json").write_text(json.dumps(pairs, indent=2) + "\n")
    print(
        f"{args.out / 'scenes.mp4'}: {(args.out / 'scenes.mp4').stat().st_size / 1000:.0f} kB, {len(pairs)} questions"
    )


if __name__ == "__main__":
    main()
