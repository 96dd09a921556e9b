"""Make the demo video ``scenes.mp4`` and its list of questions: ``python training/make_demo_video.py``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from questions import Question
from scenes import VideoSpec, paint, render_background, sample_object, sample_video
from video_files import write_mp4

VIDEOS = Path(__file__).resolve().parent.parent / "src" / "framefusion" / "assets" / "videos"
SIZE, FPS, SECONDS_PER_SCENE = 256, 24, 2
OBJECTS = (("blue", "square"), ("red", "circle"), ("green", "star"), ("yellow", "seven"))
SEED = 20_260


def demo_spec(seed: int = SEED) -> VideoSpec:
    """Four scenes with the demo's objects; backgrounds, paths and handwriting drawn from ``seed``."""
    rng = np.random.default_rng([seed, 3])
    base = sample_video(rng, frames=4, scenes=4, split="test", jitter=0.0)
    objects = [sample_object(rng, color, kind, "test") for color, kind in OBJECTS]
    return VideoSpec(tuple(replace(s, obj=o) for s, o in zip(base.scenes, objects, strict=True)))


def demo_frames(spec: VideoSpec) -> Iterator[np.ndarray]:
    """Frames of the demo at full size: every object crosses its path once in its scene."""
    count = FPS * SECONDS_PER_SCENE
    for scene in spec.scenes:
        background = render_background(scene.background, scene.background_seed, SIZE)
        for i in range(count):
            yield paint(background, scene.obj, (i + 0.5) / count)[0]


def demo_questions(spec: VideoSpec) -> list[Question]:
    """The questions shown with the demo, with the answers that follow from its scenes."""
    objects = [scene.obj for scene in spec.scenes]
    questions = []
    for earlier, later in pairwise(objects):
        questions.append(Question(f"what came after the {earlier.name}?", later.name, "after"))
        questions.append(Question(f"what came before the {later.name}?", earlier.name, "before"))
    for ordinal, obj in zip(("first", "second", "third", "last"), objects, strict=True):
        questions.append(Question(f"what is in the {ordinal} scene?", obj.name, "scene"))
    questions += [Question(f"what color is the {obj.kind}?", obj.color, "color") for obj in objects]
    questions += [Question(f"which object is {obj.color}?", obj.kind, "object") for obj in objects]
    first = f"what came after the {objects[1].name}?"
    return sorted(questions, key=lambda question: question.text != first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, default=VIDEOS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    spec = demo_spec(args.seed)
    write_mp4(args.out / "scenes.mp4", demo_frames(spec), FPS, crf=20)
    pairs = [{"question": q.text, "answer": q.answer, "kind": q.kind} for q in demo_questions(spec)]
    (args.out / "scenes.json").write_text(json.dumps(pairs, indent=2) + "\n")
    print(f"{args.out / 'scenes.mp4'}: {(args.out / 'scenes.mp4').stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
