"""A vision tower that encodes only what changed, or merges patches: from pixels to the first token."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

import framefusion
from benchmarks.gpu import qwen
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.record import Record
from framefusion import Changed, FrameFusion

KEEP = 0.2
SHARES = (0.3, 0.05, 1.0)
"""Of the patches that change from one step of a video to the next."""
WHOLE = "everything"
PLANS = {
    WHOLE: FrameFusion(keep=KEEP),
    # The patches are noise of one standard deviation, like those that a processor normalises by this.
    "what changed": FrameFusion(keep=KEEP, tower=Changed(std=(0.27, 0.27, 0.27))),
    "merged patches": FrameFusion(keep=KEEP, tower="tome"),
}


@torch.no_grad()
def run(record: Record, bench: Bench) -> None:
    """A row for each length, share and plan."""
    model, shape = qwen.build(bench), qwen.shape_of(bench)
    for frames in shape.frames:
        for changed in SHARES:
            with record.step(f"{frames} frames, {changed:.0%}"):
                inputs = qwen.prompt(model, shape, qwen.frames_of(model, shape, frames, changed))
                times = bench.in_turns({name: partial(once, model, inputs, name) for name in PLANS}, 5, 2, warm_up=1)
                for name in PLANS:
                    record.add(
                        frames=frames,
                        changed=changed,
                        dtype="bfloat16",
                        tower=name,
                        encoded=once(model, inputs, name),
                        speed_up=round(times[WHOLE]["median"] / times[name]["median"], 3),
                        **times[name],
                    )


def once(model: Any, inputs: dict[str, Any], plan: str) -> float:
    """One prefill, tower included; the share of the video that the tower encoded."""
    with framefusion.attach(model, PLANS[plan]) as run:
        model(**inputs, use_cache=True)
        share = run.summary().tower_share
    return 1.0 if share is None else round(share, 4)
