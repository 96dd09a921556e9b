"""The bundled model's held-out answers with and without reduction.

    python benchmarks/tiny_accuracy.py --json docs/data/tiny-accuracy.json

Unseen generated videos (8 frames, 512 visual tokens), one question of each kind behind each; an answer counts if every
word is right. It shows that reduction works in a trained model, not what it does to a large one.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

import framefusion
from framefusion import FrameFusion
from framefusion.loading import load

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "training"))

from evaluation import DIGIT_SHARE, HELD_OUT_SEED  # noqa: E402
from questions import QUESTION_KINDS, ask  # noqa: E402
from scenes import render, sample_video  # noqa: E402

PLANS: dict[str, FrameFusion | None] = {
    "all tokens": None,
    "keep=0.2": FrameFusion(keep=0.2),
    "keep=0.1": FrameFusion(keep=0.1),
    "keep=0.05": FrameFusion(keep=0.05),
    "cost=0.3": FrameFusion(cost=0.3),
    "keep=0.1, attention top-k": FrameFusion(keep=0.1, selector="topk"),
    "keep=0.1, evenly spaced": FrameFusion(keep=0.1, selector="uniform"),
}


def prompts_and_answers(processor: Any, index: int) -> tuple[Any, list[tuple[str, str]]]:
    """The model's inputs for one video, one row per question, and ``(kind, answer)`` of each."""
    rng = np.random.default_rng([0, HELD_OUT_SEED, 10_000 + index])
    spec = sample_video(rng, split="test", digit_share=DIGIT_SHARE)
    questions = [question for kind in QUESTION_KINDS if (question := ask(rng, spec, kind)) is not None]
    text = [
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question.text}]}],
            add_generation_prompt=True,
        )
        for question in questions
    ]
    frames = render(spec).frames
    inputs = processor(text=text, videos=[frames] * len(text), padding=True, return_tensors="pt")
    return inputs, [(question.kind, question.answer) for question in questions]


def measure(videos: int, progress: Any = print) -> dict[str, dict[str, float]]:
    """Share of right answers per plan, overall and per kind of question, and the mean share of tokens."""
    loaded = load()
    model, processor = loaded.model, loaded.processor
    right: dict[str, dict[str, list[bool]]] = {name: {} for name in PLANS}
    shares: dict[str, list[float]] = {name: [] for name in PLANS}
    for index in range(videos):
        inputs, expected = prompts_and_answers(processor, index)
        length = inputs["input_ids"].shape[1]
        for name, settings in PLANS.items():
            with nullcontext() if settings is None else framefusion.attach(model, settings) as run:
                out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
            answers = processor.batch_decode(out[:, length:], skip_special_tokens=True)
            for answer, (kind, wanted) in zip(answers, expected, strict=True):
                right[name].setdefault(kind, []).append(answer.strip() == wanted)
            shares[name].append(1.0 if run is None else run.summary().mean_share)
        if (index + 1) % 20 == 0:
            progress(f"{index + 1} of {videos} videos")
    result = {}
    for name, kinds in right.items():
        everything = [answer for answers in kinds.values() for answer in answers]
        result[name] = {
            "mean_share": float(np.mean(shares[name])),
            "questions": len(everything),
            "all": float(np.mean(everything)),
            **{kind: float(np.mean(kinds[kind])) for kind in QUESTION_KINDS},
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = measure(args.videos)
    for name, row in result.items():
        kinds = "  ".join(f"{kind} {row[kind]:.1%}" for kind in QUESTION_KINDS)
        print(f"{name:<26} share {row['mean_share']:.3f}  all {row['all']:.1%} of {row['questions']}  {kinds}")
    if args.json:
        command = " ".join(["python", *sys.argv])
        args.json.write_text(json.dumps({"command": command, "plans": result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
