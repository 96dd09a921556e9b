"""Prefill of a decoder with and without reduction, in one process, in turns.

    python benchmarks/prefill.py --json docs/data/prefill.json

The model has the architecture of Qwen2.5-VL with random weights (about 100 million decoder parameters), so the answers
mean nothing and the times do. The video is encoded beforehand: only the decoder's prefill is timed, reduction included.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

import framefusion
from framefusion import FrameFusion

PATCHES = 14
VIDEO, START, END = 1, 2, 3
PLANS: dict[str, FrameFusion | None] = {
    "all tokens": None,
    "keep=0.2": FrameFusion(keep=0.2),
    "cost=0.5": FrameFusion(cost=0.5),
    "cost=0.3": FrameFusion(cost=0.3),
}


def build_model(layers: int) -> Any:
    """A Qwen2.5-VL with a decoder of about 8 million parameters a layer and a vision tower too small to matter."""
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 1000,
            "hidden_size": 768,
            "intermediate_size": 2560,
            "num_hidden_layers": layers,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 768,
            "patch_size": 4,
            "fullatt_block_indexes": [],
        },
        video_token_id=VIDEO,
        image_token_id=4,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    torch.manual_seed(0)
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def make_inputs(model: Any, frames: int) -> dict[str, Any]:
    """A prompt around ``frames`` frames of 14 × 14 tokens: scenes of eight frames, each frame a little different."""
    generator = torch.Generator().manual_seed(0)
    scenes = torch.randn((frames + 7) // 8, PATCHES**2 * 4, 96, generator=generator).repeat_interleave(8, 0)[:frames]
    pixels = scenes + 0.5 * torch.randn(scenes.shape, generator=generator)
    grid = torch.tensor([[frames, 2 * PATCHES, 2 * PATCHES]])
    text = torch.randint(10, 1000, (24,), generator=generator).tolist()
    ids = [*text[:8], START, *[VIDEO] * (frames * PATCHES**2), END, *text[8:]]
    input_ids = torch.tensor([ids])
    with torch.no_grad():
        encoded = model.model.get_video_features(pixels.flatten(0, 1), grid, return_dict=True)
    return {
        "input_ids": input_ids,
        "mm_token_type_ids": (input_ids == VIDEO).int() * 2,
        "video_grid_thw": grid,
        "mm_encoder_outputs": {"video": encoded},
        "logits_to_keep": 1,
    }


def measure(model: Any, inputs: dict[str, Any], repeats: int) -> list[dict[str, Any]]:
    """One row per plan: median seconds over ``repeats`` rounds that take the plans in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in PLANS}
    stages: dict[str, list[float]] = {name: [] for name in PLANS}
    rows: dict[str, dict[str, Any]] = {}
    for turn in range(repeats + 1):
        for name, settings in PLANS.items():
            with nullcontext() if settings is None else framefusion.attach(model, settings) as run:
                started = time.perf_counter()
                with torch.no_grad():
                    model(**inputs, use_cache=True)
                elapsed = time.perf_counter() - started
            if turn == 0:
                continue
            seconds[name].append(elapsed)
            rows[name] = {"plan": name, "mean_share": 1.0, "flops_share": 1.0}
            if run is not None:
                summary = run.summary()
                stages[name].append(summary.reduction_milliseconds / 1e3)
                rows[name].update(
                    mean_share=summary.mean_share,
                    flops_share=1 - summary.flops_saved_share,
                    tokens_per_layer=summary.tokens_per_layer,
                )
    full = statistics.median(seconds["all tokens"])
    for name, row in rows.items():
        median = statistics.median(seconds[name])
        stage = statistics.median(stages[name]) if stages[name] else 0.0
        row.update(
            seconds=median,
            speed_up=full / median,
            ideal_speed_up=1 / row["flops_share"],
            stages_share_of_full=stage / full,
        )
    return list(rows.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--layers", type=int, default=14)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = build_model(args.layers)
    result = {
        "command": " ".join(["python", *sys.argv]),
        "framefusion": framefusion.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": f"{platform.machine()}, {args.threads} threads, fp32, CPU",
        "decoder_parameters": sum(p.numel() for p in model.get_decoder().layers.parameters()),
        "layers": args.layers,
        "runs": [],
    }
    print(f"{'frames':>6} {'plan':<11} {'mean share':>10} {'seconds':>8} {'speed-up':>8} {'ideal':>6} {'stages':>7}")
    for frames in args.frames:
        rows = measure(model, make_inputs(model, frames), args.repeats)
        result["runs"].append({"frames": frames, "visual_tokens": frames * PATCHES**2, "plans": rows})
        for row in rows:
            print(
                f"{frames:>6} {row['plan']:<11} {row['mean_share']:>10.3f} {row['seconds']:>8.2f} "
                f"{row['speed_up']:>7.2f}x {row['ideal_speed_up']:>5.2f}x {row['stages_share_of_full']:>7.2%}",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
