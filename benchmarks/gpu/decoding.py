"""Decoding steps with a static cache: as they come, compiled, and in CUDA graphs."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any

import torch

import framefusion
from benchmarks.gpu import qwen
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.prefill import PLANS
from benchmarks.gpu.record import Record

WAYS: dict[str, dict[str, Any] | None] = {
    "eager": None,
    "CUDA graphs, compiled (reduce-overhead)": {"mode": "reduce-overhead"},
    "CUDA graphs of the eager kernels": {"backend": "cudagraphs"},
}
"""Arguments of ``torch.compile``."""
REHEARSED = {"backend": "eager"}
ORDER = (
    ("keep=0.2", "eager"),
    ("all tokens", "eager"),
    ("keep=0.2", "CUDA graphs, compiled (reduce-overhead)"),
    ("keep=0.2", "CUDA graphs of the eager kernels"),
    ("all tokens", "CUDA graphs, compiled (reduce-overhead)"),
)
WARM_UP = 4
"""Steps before the timed ones: the first compiles, the second records."""


@torch.no_grad()
def run(record: Record, bench: Bench) -> None:
    """A row for each plan and way; every way has to say what the eager one says."""
    model, shape = qwen.build(bench), qwen.shape_of(bench)
    frames = shape.frames[0]
    inputs = qwen.encoded(model, qwen.prompt(model, shape, qwen.frames_of(model, shape, frames)))
    said: dict[str, torch.Tensor] = {}
    for plan, way in ORDER:
        with record.step(f"{plan}, {way}"):
            options = WAYS[way] if not bench.rehearsal or WAYS[way] is None else REHEARSED
            row, tokens = measured(bench, model, inputs, plan, options)
            eager = said.setdefault(plan, tokens)
            same = int((tokens == eager).sum())
            record.add(
                plan=plan, way=way, frames=frames, dtype="bfloat16", same_tokens=f"{same} of {tokens.numel()}", **row
            )


def measured(
    bench: Bench, model: Any, inputs: dict[str, Any], plan: str, options: dict[str, Any] | None
) -> tuple[dict[str, Any], torch.Tensor]:
    """Times of one way, and what it said."""
    from torch._dynamo.utils import counters
    from transformers import StaticCache

    torch.compiler.reset()
    counters.clear()
    settings, steps = PLANS[plan], qwen.shape_of(bench).tokens
    column = inputs["input_ids"].shape[1]
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=column + WARM_UP + steps + 1)
    step = None if options is None else torch.compile(model.forward, fullgraph=True, **options)
    with nullcontext() if settings is None else framefusion.attach(model, settings):
        out = model(**inputs, past_key_values=cache, use_cache=True)
        token = out.logits[:, -1].argmax(-1, keepdim=True)
        begun = time.monotonic()
        first = qwen.decode(model, cache, token, WARM_UP, step, column=column)
        bench.synchronize()
        warm_up = time.monotonic() - begun
        rest: list[torch.Tensor] = []
        before = counters["stats"]["unique_graphs"]

        def decode() -> None:
            rest.extend(qwen.decode(model, cache, first[-1], steps, step, column=column + WARM_UP))

        total = bench.milliseconds(decode)
        assert counters["stats"]["unique_graphs"] == before, "a timed step was compiled again"
    row = {
        "median": round(total / steps, 4),
        "repeats": steps,
        "warm_up_seconds": round(warm_up, 2),
        "graphs_skipped": counters["inductor"]["cudagraph_skips"],
    }
    return row, torch.cat([*first, *rest], dim=1)
