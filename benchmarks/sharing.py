"""Five questions about one video, on one beginning and each as a whole, in one process, in turns.

    python -m benchmarks.sharing --json docs/data/sharing.json

The model is the one of :mod:`benchmarks.prefill`: the architecture of Qwen2.5-VL with random weights. The video is
encoded beforehand, as ``framefusion eval`` does either way, so what is timed is the decoder: prefills and answers.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers

import framefusion
from benchmarks.prefill import build_model, make_inputs
from framefusion import FrameFusion
from framefusion.asking.encodings import Prompt, collate
from framefusion.asking.together import Together, beginning, shares

PLANS: dict[str, FrameFusion] = {
    "all tokens": FrameFusion(keep=1.0),
    "cost=0.3, the default": FrameFusion(cost=0.3),
    "keep={0: 0.3}, diversity alone": FrameFusion(keep={0: 0.3}, relevance="none"),
    "keep={2: 0.3}, attention": FrameFusion(keep={2: 0.3}, relevance="last", selector="topk", dropped="drop"),
}
PAD = 0


def questions(model: Any, frames: int, count: int) -> list[Prompt]:
    """Prompts with one video and words of their own behind it, of lengths from 12 on."""
    inputs = make_inputs(model, frames)
    encoded = inputs.pop("mm_encoder_outputs")
    del inputs["logits_to_keep"]
    end = beginning(model, [Prompt(inputs, encoded)])
    generator, made = torch.Generator().manual_seed(1), []
    for number in range(count):
        words = torch.randint(5, 1000, (1, 12 + number), generator=generator)
        ids = torch.cat([inputs["input_ids"][:, :end], words], dim=1)
        kinds = torch.cat([inputs["mm_token_type_ids"][:, :end], torch.zeros_like(words)], dim=1)
        by_token = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": kinds}
        made.append(Prompt({**inputs, **by_token}, encoded))
    return made


def answered(model: Any, settings: FrameFusion, asked: list[Prompt], tokens: int, share: bool) -> tuple[float, Any]:
    """Seconds for all answers in one batch, and their tokens."""
    with framefusion.attach(model, settings) as run, torch.inference_mode():
        begin = time.perf_counter()
        if share:
            arguments = Together(model, run, PAD).arguments(asked, "video", beginning(model, asked))
        else:
            arguments = collate(asked, PAD)
        ids = model.generate(**arguments, max_new_tokens=tokens, do_sample=False, pad_token_id=PAD)
        seconds = time.perf_counter() - begin
    return seconds, ids[:, arguments["input_ids"].shape[1] :]


def measure(model: Any, asked: list[Prompt], tokens: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each plan: the median ratio of the times of one round, and how many answers are the same."""
    rows = []
    for name, settings in PLANS.items():
        assert shares(model, settings)
        ratios, same = [], 0
        for _ in range(rounds):
            (whole, expected), (shared, said) = (
                answered(model, settings, asked, tokens, share) for share in (False, True)
            )
            ratios.append(whole / shared)
            same = int((expected == said).all(1).sum())
        rows.append({"plan": name, "ratio": statistics.median(ratios), "ratios": ratios, "same": same})
        sys.stdout.write(f"{name:32} {rows[-1]['ratio']:.2f} times as fast, {same} of {len(asked)} answers the same\n")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--layers", type=int, default=14)
    parser.add_argument("--questions", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = build_model(args.layers)
    answered(model, PLANS["all tokens"], questions(model, 2, 2), 2, True)
    asked = questions(model, args.frames, args.questions)
    rows = measure(model, asked, args.new_tokens, args.rounds)
    if args.json is not None:
        about = {name: getattr(args, name) for name in ("frames", "layers", "questions", "new_tokens", "rounds")}
        about |= {"tokens": asked[0].length, "machine": platform.machine(), "threads": torch.get_num_threads()}
        about |= {"torch": torch.__version__, "transformers": transformers.__version__}
        args.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
