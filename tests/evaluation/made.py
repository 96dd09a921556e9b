"""Lines of results with known numbers, without a model."""

from __future__ import annotations

from typing import Any

import numpy as np

from framefusion.evaluation.summary import summarise

VIDEOS, EACH = 20, 4
KINDS = ("large", "order")
ACCURACY = {
    ("full", None): 0.95,
    ("text-only", None): 0.2,
    ("random", 0.2): 0.6,
    ("random", 0.1): 0.5,
    ("fastv", 0.2): 0.7,
    ("evs", 0.2): 0.75,
    ("evs", 0.1): 0.7,
    ("segment-dpp", 0.2): 0.94,
    ("segment-dpp-input", 0.2): 0.8,
    ("segment-dpp-input", 0.1): 0.72,
    ("segment-dpp:single", 0.2): 0.74,
}
LOST = {("fastv", 0.1): "a budget of 0.1 cannot be reached", ("segment-dpp", 0.1): "a budget of 0.1 cannot be reached"}
ABOUT = {
    "full": ("All tokens", "control"),
    "text-only": ("Text only", "control"),
    "random": ("Random", "control"),
    "fastv": ("FastV", "published"),
    "evs": ("EVS", "published"),
    "segment-dpp": ("Segment DPP", "ours"),
    "segment-dpp-input": ("Segment DPP, at the input", "ours"),
    "segment-dpp:single": ("Segment DPP: single", "ablation"),
}


def lines(frames: int = 16, seeds: int = 3) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Cells and rows of one number of frames; every question has its difficulty, so that methods agree on it."""
    rng = np.random.default_rng(frames)
    difficulty = rng.random(VIDEOS * EACH)
    cells, rows = [], []
    for (method, budget), accuracy in ACCURACY.items():
        title, kind = ABOUT[method]
        for seed in range(seeds if method == "random" else 1):
            key = f"{method}@{budget}/{frames}f/seed{seed}"
            cell = {"cell": key, "method": method, "title": title, "kind": kind, "budget": budget, "seed": seed}
            cells.append({**cell, "frames": frames, "shown": frames, "settings": {}})
            if method != "evs":
                cells[-1] |= {
                    "timed": 5,
                    "selection_milliseconds": 2.0,
                    "first_token_seconds": 0.04 * (budget or 1),
                    "full_first_token_seconds": 0.04,
                }
            noise = rng.random(VIDEOS * EACH) * 0.02 + (0.05 * seed if method == "random" else 0)
            for i, hard in enumerate(difficulty):
                right = bool(hard + noise[i] < accuracy)
                rows.append(
                    {
                        "cell": key,
                        "question": f"{i // EACH}/{i}",
                        "video": str(i // EACH),
                        "kind": KINDS[i % 2],
                        "tags": [("static", "fast")[(i // EACH) % 2]],
                        "prediction": "red" if right else "green",
                        "correct": right,
                        "tokens": 1000 * (budget or 1) * (1.3 if method == "evs" else 1),
                        "kv_bytes": round(1e6 * (budget or 1)),
                    }
                )
    for (method, budget), reason in LOST.items():
        title, kind = ABOUT[method]
        cells.append(
            {"method": method, "title": title, "kind": kind, "budget": budget, "frames": frames, "reason": reason}
        )
    return cells, rows


def summary() -> dict[str, Any]:
    """Content of a ``summary.json``."""
    cells, rows = (a + b for a, b in zip(lines(16), lines(32), strict=True))
    cells = [cell for cell in cells if cell["frames"] == 16 or cell["method"] in ("full", "segment-dpp-input")]
    return {
        "model": "bundled (LlavaOnevisionForConditionalGeneration, float32, weights 01234567)",
        "data": "VideoNeedle (test split, seed 0)",
        "new_tokens": 16,
        "versions": {"framefusion": "0.1.0", "torch": "2.6"},
        "commands": ["framefusion eval --frames 16", "framefusion eval --frames 32"],
        "seed": 0,
        "resamples": 500,
        "level": 0.95,
        "frames": summarise(cells, rows, resamples=500),
    }
