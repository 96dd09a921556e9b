"""A vision tower that encodes only what changed: from pixels to the first token, by how much of a video changes."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

import framefusion
from benchmarks.gpu import qwen
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.record import Absent, Record
from framefusion import FrameFusion

KEEP = 0.2
CHANGED = (0.3, 0.05, 1.0)
"""Shares of the patches that change from one step of a video to the next."""


def plans() -> dict[str, FrameFusion]:
    """The same plan with the whole tower, and with what changed alone."""
    changes: dict[str, Any] = {"tower": "changed"}
    try:
        return {"everything": FrameFusion(keep=KEEP), "what changed": FrameFusion(keep=KEEP, **changes)}
    except TypeError as error:
        raise Absent(f"this version of framefusion has no setting for it: {error}") from None


@torch.no_grad()
def run(record: Record, bench: Bench) -> None:
    """A row for each length, share and plan."""
    chosen = plans()
    model, shape = qwen.build(bench), qwen.shape_of(bench)
    for frames in shape.frames:
        for changed in CHANGED:
            with record.step(f"{frames} frames, {changed:.0%}"):
                inputs = qwen.prompt(model, shape, qwen.frames_of(model, shape, frames, changed))
                runs = {name: partial(once, model, inputs, plan) for name, plan in chosen.items()}
                times = bench.in_turns(runs, 5, seconds=2, warm_up=1)
                for name in runs:
                    ratio = round(times["everything"]["median"] / times[name]["median"], 3)
                    record.add(
                        frames=frames, changed=changed, dtype="bfloat16", tower=name, speed_up=ratio, **times[name]
                    )


def once(model: Any, inputs: dict[str, Any], plan: FrameFusion) -> None:
    """One prefill, tower included."""
    with framefusion.attach(model, plan):
        model(**inputs, use_cache=True)
