"""Prefill of a decoder with and without reduction, in one process, in turns.

    python benchmarks/prefill.py --json docs/data/prefill.json

The model has the architecture of Qwen2.5-VL with random weights (about 100 million decoder parameters), so the answers
mean nothing and the times do. The video is encoded beforehand: only the decoder's prefill is timed, reduction included.
On a machine that others use too, ``--cpu-time --threads 1`` takes the CPU time of the process, of the stages as well.

Peak memory is the growth of the resident set's high-water mark over one prefill, each in its own process. Its ideal
takes what the prefill of all tokens needs beyond its cache, and beyond what is there before the first layer and the
model's own code holds to the end (embeddings, encoded video, rotary tables), as proportional to the tokens of a layer,
and adds these and the cache of the layers so far: the largest such sum over the layers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

import framefusion
from framefusion import FrameFusion
from framefusion.bench import memory
from framefusion.reduction.reducer import Reduction

PATCHES = 14
VIDEO, START, END = 1, 2, 3
PLANS: dict[str, FrameFusion | None] = {
    "all tokens": None,
    "keep=0.2": FrameFusion(keep=0.2),
    "cost=0.5": FrameFusion(cost=0.5),
    "cost=0.3": FrameFusion(cost=0.3),
    "cost=0.15": FrameFusion(cost=0.15),
    "two stages by text attention": FrameFusion(keep={2: 0.5, 7: 0.25}, relevance="text"),
}
WARM_UP_FRAMES = 4


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


def prefill(
    model: Any, inputs: dict[str, Any], settings: FrameFusion | None, read: Callable[[], float] = time.perf_counter
) -> tuple[float, float, Any]:
    """Seconds of one prefill and of its stages, and the run's summary if it was reduced."""
    stages, before_layer = [0.0], Reduction.before_layer

    def timed(*given: Any) -> Any:
        began = read()
        hidden = before_layer(*given)
        stages[0] += read() - began
        return hidden

    attached = nullcontext() if settings is None else framefusion.attach(model, settings)
    with attached as run, mock.patch.object(Reduction, "before_layer", timed):
        started = read()
        with torch.no_grad():
            model(**inputs, use_cache=True)
        return read() - started, stages[0], None if run is None else run.summary()


def measure(
    model: Any,
    inputs: dict[str, Any],
    plans: Sequence[str],
    repeats: int,
    read: Callable[[], float] = time.perf_counter,
) -> list[dict[str, Any]]:
    """One row per plan; ratios are medians over ``repeats`` rounds, of two times of the same round."""
    chosen = {name: PLANS[name] for name in ("all tokens", *plans)}
    for settings in chosen.values():
        prefill(model, make_inputs(model, WARM_UP_FRAMES), settings)
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    stages: dict[str, list[float]] = {name: [] for name in chosen}
    rows: dict[str, dict[str, Any]] = {}
    for _ in range(repeats):
        for name, settings in chosen.items():
            elapsed, reducing, summary = prefill(model, inputs, settings, read)
            seconds[name].append(elapsed)
            stages[name].append(reducing)
            rows[name] = {"plan": name, "mean_share": 1.0, "flops_share": 1.0}
            if summary is None:
                continue
            rows[name].update(
                mean_share=summary.mean_share,
                flops_share=1 - summary.flops_saved_share,
                tokens_per_layer=summary.tokens_per_layer,
            )
    full = seconds["all tokens"]
    for name, row in rows.items():
        row.update(
            seconds=seconds[name],
            median_seconds=statistics.median(seconds[name]),
            speed_up=statistics.median(f / t for f, t in zip(full, seconds[name], strict=True)),
            ideal_speed_up=1 / row["flops_share"],
            stages_share_of_full=statistics.median(s / f for f, s in zip(full, stages[name], strict=True)),
        )
    return list(rows.values())


def add_memory(rows: list[dict[str, Any]], model: Any, frames: int, args: argparse.Namespace) -> None:
    """Add each plan's peak extra bytes, and their ideal."""
    config = model.config.text_config
    head = config.hidden_size // config.num_attention_heads
    cached = 2 * config.num_key_value_heads * head * 4
    tokens = frames * PATCHES**2
    held = activations = 0.0
    for row in rows:
        row["peak_extra_bytes"], row["held_bytes"] = memory_in_a_process(row["plan"], frames, args)
        if row["plan"] == "all tokens":
            held = row["held_bytes"]
            activations = (row["peak_extra_bytes"] - held - cached * tokens * args.layers) / tokens
        per_layer = row.get("tokens_per_layer") or [tokens] * args.layers
        row["ideal_peak_extra_bytes"] = held + max(
            cached * sum(per_layer[: layer + 1]) + activations * per_layer[layer] for layer in range(args.layers)
        )


def memory_in_a_process(plan: str, frames: int, args: argparse.Namespace) -> tuple[int, int]:
    """Peak extra bytes of one prefill, and those held before the first layer; without fixed thresholds glibc would keep
    large freed blocks."""
    options = ["--memory-of", plan, "--frames", str(frames), "--layers", str(args.layers)]
    child = subprocess.run(
        [sys.executable, __file__, *options, "--threads", str(args.threads)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"},
    )
    peak, held = map(int, child.stdout.split()[-2:])
    return peak, held


def own_memory(plan: str, args: argparse.Namespace) -> tuple[int, int]:
    """:func:`memory_in_a_process`, of this one."""
    model = build_model(args.layers)
    prefill(model, make_inputs(model, WARM_UP_FRAMES), PLANS[plan])
    inputs = make_inputs(model, args.frames[0])
    resident: list[int] = []

    def run() -> None:
        resident.append(memory.resident_bytes())
        prefill(model, inputs, PLANS[plan])

    first_layer = model.get_decoder().layers[0]
    first_layer.register_forward_pre_hook(lambda *_: resident.append(memory.resident_bytes()))
    peak = memory.extra_bytes(run, warm=True)
    return peak, resident[1] - resident[0]


def print_rows(frames: int, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        reached = f"{row['speed_up']:.2f}x of {row['ideal_speed_up']:.2f}x"
        peak = ""
        if "peak_extra_bytes" in row:
            peak = f"{row['peak_extra_bytes'] / 2**20:7.0f} of {row['ideal_peak_extra_bytes'] / 2**20:.0f} MiB"
        print(
            f"{frames:>3} frames, {row['plan']:<10}  {row['median_seconds']:7.2f} s  {reached:>16}  "
            f"stages {row['stages_share_of_full']:6.2%}  {peak}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[16, 32, 64])
    reducing = [name for name, settings in PLANS.items() if settings is not None]
    parser.add_argument("--plans", choices=reducing, nargs="+", default=reducing, metavar="PLAN")
    parser.add_argument("--layers", type=int, default=14)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="of the process, instead of the wall clock's")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--memory-of", choices=PLANS, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print(*own_memory(args.memory_of, args))
        return
    model, read = build_model(args.layers), time.process_time if args.cpu_time else time.perf_counter
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "framefusion": framefusion.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": f"{platform.machine()}, {args.threads} threads, fp32, CPU" + (" time" if args.cpu_time else ""),
        "decoder_parameters": sum(p.numel() for p in model.get_decoder().layers.parameters()),
        "layers": args.layers,
        "runs": [],
    }
    for frames in args.frames:
        rows = measure(model, make_inputs(model, frames), args.plans, args.repeats, read)
        if args.memory:
            add_memory(rows, model, frames, args)
        result["runs"].append({"frames": frames, "visual_tokens": frames * PATCHES**2, "plans": rows})
        print_rows(frames, rows)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
