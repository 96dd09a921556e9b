"""Scenes of photographs seen by the frozen DINOv2, encoded once: ``python training/photos_bank.py``; resumes by itself.

The tower sees one frame at a time, so encoded scenes meet in ever new videos (``photos_lessons.py``). A scene is drawn
at six frames; videos take two to six of them, evenly spaced.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from footage import training_clips
from photos_model import add_windows, run_of, see, tower
from runs import FILMS
from torch import Tensor
from vision import augment, to_pixels

from framefusion.evaluation.needle.footage import Clip
from framefusion.evaluation.needle.photo_scenes import render_scene, sample_roles, sample_scene
from framefusion.evaluation.needle.photos import NAMES
from framefusion.evaluation.needle.scenes import Footage
from framefusion.evaluation.photos import stamps

BANK = "bank"
"""Its folder in that of a run."""
FRAMES = 6
"""Frames of a scene in the bank."""
TOGETHER = 32
"""Scenes of a file."""


def draw(number: int, clips: list[Clip], folder: Path, seed: int) -> dict[str, object]:
    """File ``number``: ``scenes``, their ``coverage``, ``pixels`` float32 ``(scenes, F, 3, 168, 168)`` in −1 … 1."""
    rng = np.random.default_rng([seed, 23, number])
    rendered = []
    for _ in range(TOGETHER):
        roles = sample_roles(rng)
        footage: Footage = "fast" if rng.random() < 0.5 else "static"
        names = [NAMES[i] for i in rng.permutation(len(NAMES))[: len(roles)]]
        rendered.append(render_scene(sample_scene(rng, roles, names, footage, "train"), FRAMES, clips, folder))
    pixels = torch.cat([augment(to_pixels(item.frames)[None], rng) for item in rendered])
    return {
        "scenes": [item.scene for item in rendered],
        "coverage": [item.coverage.astype(np.float16) for item in rendered],
        "pixels": pixels,
    }


@torch.inference_mode()
def encode(model: torch.nn.Module, pixels: Tensor) -> Tensor:
    """Hidden states of the patches, float16 ``(scenes, F, 144, 384)``."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = [see(model, scene) for scene in pixels]
    return torch.stack(seen).half()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=26, help=f"files of {TOGETHER} scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    add_windows(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    bank = run_of(args.windows) / BANK
    bank.mkdir(parents=True, exist_ok=True)
    clips, folder, model = training_clips(FILMS), stamps(), tower(args.windows)
    for number in range(args.files):
        path = bank / f"{number:04d}.pt"
        if path.exists():
            continue
        drawn = draw(number, clips, folder, args.seed)
        drawn["features"] = encode(model, drawn.pop("pixels"))  # type: ignore[arg-type]
        torch.save(drawn, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
        print(path.name, flush=True)


if __name__ == "__main__":
    main()
