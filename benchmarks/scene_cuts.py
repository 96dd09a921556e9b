"""Which cuts between the scenes of `facts` a segmentation finds, by kind of redundancy.

    python benchmarks/scene_cuts.py --model qwen2.5-0.5b --seed 1

No question is asked: segments are cut on the embeddings, before anything runs.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from typing import Any

import torch

from framefusion import DynamicProgramming, FrameSimilarity
from framefusion.evaluation.checkpoints import open_model
from framefusion.evaluation.facts.scenes import CONTROLS, fact_video
from framefusion.evaluation.facts.spelling import embedded, frame_tokens
from framefusion.reduction.segmentation import Clip

FRAMES, TOKENS = 16, 16
RULES = {
    "frame-similarity": FrameSimilarity(),
    "dp, the program alone": DynamicProgramming(sudden=None),
    "dp": DynamicProgramming(),
}


def cuts(loaded: Any, videos: int, seed: int) -> dict[str, dict[str, dict[str, int]]]:
    """By rule and control: how many true cuts there are, how many were found, and how many others."""
    embed, tokenizer = loaded.model.get_input_embeddings(), loaded.processor.tokenizer
    order = torch.arange(FRAMES * TOKENS)
    counts: dict[tuple[str, str], Counter[str]] = {(rule, control): Counter() for rule in RULES for control in CONTROLS}
    for number in range(videos):
        video = fact_video(number, seed, FRAMES)
        features = embedded(video, range(FRAMES), embed, frame_tokens(video, tokenizer, TOKENS)).flatten(0, 1)
        clip, true = Clip(features, order // TOKENS, order % TOKENS, FRAMES), set(video.starts[1:])
        for name, rule in RULES.items():
            found = set((rule(clip).diff().nonzero().flatten() + 1).tolist())
            counts[name, video.control].update(true=len(true), found=len(true & found), others=len(found - true))
    return {rule: {control: dict(counts[rule, control]) for control in CONTROLS} for rule in RULES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-0.5b", help="of framefusion.evaluation.decoders")
    parser.add_argument("--videos", type=int, default=108)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    loaded = open_model({"model": given.model, "dtype": "bfloat16"})
    print(json.dumps(cuts(loaded, given.videos, given.seed), indent=1))


if __name__ == "__main__":
    main()
