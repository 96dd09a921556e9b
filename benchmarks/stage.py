"""CPU time of the selection and of a whole stage with the default settings, on one thread.

    python benchmarks/stage.py                          # this checkout
    PYTHONPATH=OTHER/src python benchmarks/stage.py     # another one, to compare with
    python benchmarks/stage.py --product --rounds 99    # one product alone, beside torch.mm

CPU time instead of wall time, so that what else runs on the machine counts little. A workload of the selection is
related to one full float32 Gram matrix of its segments (``torch.bmm``) in the same round; a stage is given in
milliseconds, with those of the selection in it: synthetic hidden states of 64 frames of 196 tokens, D 3584, layer 0.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from framefusion import FrameFusion, select_tokens
from framefusion.reduction.layout import VisualItem, VisualLayout
from framefusion.reduction.reducer import Reduction
from framefusion.reduction.selectors import dpp
from framefusion.selection import warm_up

FRAMES, SIDE, DIM = 64, 14, 3584
WORKLOADS = ((8, 128, 64, 4096), (64, 196, 98, 4096), (1, 4032, 1600, 1024))
"""Segments, tokens of each, tokens kept of each, width."""


def seconds(run: Callable[[], Any]) -> float:
    """CPU time of one run."""
    started = time.process_time()
    run()
    return time.process_time() - started


def workload(segments: int, tokens: int, keep: int, dim: int, dtype: torch.dtype, rounds: int) -> str:
    """One line: ratios to the Gram matrix, medians over rounds."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(segments, 1, dim, generator=generator)
    features = (torch.randn(segments, tokens, dim, generator=generator) + common).to(dtype)
    flat, wide, r = features.flatten(0, 1), features.float(), torch.rand(segments * tokens, generator=generator)
    ids, total = torch.arange(segments).repeat_interleave(tokens), keep * segments
    ways: dict[str, Callable[[], Any]] = {
        "gram": lambda: torch.bmm(wide, wide.mT),
        "uniform relevance": lambda: select_tokens(flat, None, ids, [keep] * segments),
        "random relevance": lambda: select_tokens(flat, r, ids, [keep] * segments),
        "joint, gamma 1": lambda: select_tokens(flat, None, ids, total, joint=True, gamma=1.0),
    }
    times = [{name: seconds(run) for name, run in ways.items()} for _ in range(rounds + 1)][1:]
    ratios = {name: statistics.median(each[name] / each["gram"] for each in times) for name in list(ways)[1:]}
    told = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
    return f"{segments}×{tokens}→{keep}, D {dim}, {dtype}: {told}"


def product(rounds: int) -> str:
    """One line: a Gram matrix of one segment as the selection multiplies it, beside ``torch.mm``, in milliseconds."""
    from framefusion.selection.numerics import products

    parts = torch.randn(8, 128, 4096, generator=torch.Generator().manual_seed(0))
    ways: dict[str, Callable[[Tensor], Any]] = {
        "ours": lambda x: products(x, x),
        "torch.mm": lambda x: torch.mm(x, x.T),
    }
    times = [
        {name: seconds(lambda run=run: [run(x) for x in parts]) for name, run in ways.items()} for _ in range(rounds)
    ]
    middle = {name: statistics.median(each[name] for each in times) / len(parts) * 1e3 for name in ways}
    return "128×128 of 4096, ms: " + ", ".join(f"{name} {value:.2f}" for name, value in middle.items())


def hidden_states(frames_of_scene: int, dtype: torch.dtype) -> Tensor:
    """(1, 8 + tokens + 16, D): scenes of equal length whose frames differ by noise, text before and after."""
    generator = torch.Generator().manual_seed(0)
    scenes = torch.randn(-(-FRAMES // frames_of_scene), SIDE**2, DIM, generator=generator)
    frames = scenes.repeat_interleave(frames_of_scene, 0)[:FRAMES]
    frames = frames + 0.35 * torch.randn(frames.shape, generator=generator)
    before, after = (torch.randn(n, DIM, generator=generator) for n in (8, 16))
    return torch.cat([before, frames.flatten(0, 1), after])[None].to(dtype)


def stage(frames_of_scene: int, dtype: torch.dtype, rounds: int) -> str:
    """One line: the stage before layer 0, and the selection in it."""
    hidden, inside = hidden_states(frames_of_scene, dtype), [0.0]
    layout = VisualLayout.of([VisualItem.run("video", (FRAMES, SIDE, SIDE), 8)])
    real = dpp.select_tokens

    def timed(*arguments: Any, **options: Any) -> Any:
        started = time.process_time()
        try:
            return real(*arguments, **options)
        finally:
            inside[0] += time.process_time() - started

    def run() -> None:
        valid = torch.ones(1, hidden.shape[1], dtype=torch.bool)
        Reduction(FrameFusion(), [layout], valid, 28).before_layer(0, hidden)

    dpp.select_tokens = timed  # type: ignore[assignment]
    try:
        whole, selection = [], []
        for _ in range(rounds + 1):
            inside[0] = 0.0
            whole.append(seconds(run))
            selection.append(inside[0])
    finally:
        dpp.select_tokens = real
    milliseconds = [statistics.median(times[1:]) * 1e3 for times in (whole, selection)]
    return (
        f"stage, scenes of {frames_of_scene} frames, {dtype}: {milliseconds[0]:.0f} ms, {milliseconds[1]:.0f} selecting"
    )


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--product", action="store_true", help="only the product of one segment")
    given = parser.parse_args()
    rounds = given.rounds
    torch.set_num_threads(1)
    if given.product:
        print(product(rounds))
        return
    print(f"compiling: {seconds(lambda: [warm_up(d) for d in (torch.float32, torch.float64)]):.1f} s", flush=True)
    for config in WORKLOADS:
        print(workload(*config, torch.float32, rounds), flush=True)
    print(workload(*WORKLOADS[1], torch.bfloat16, rounds), flush=True)
    for frames_of_scene in (1, 8):
        for dtype in (torch.float32, torch.bfloat16):
            print(stage(frames_of_scene, dtype, rounds), flush=True)


if __name__ == "__main__":
    main()
